"""int8 of a classifier in ONNX Runtime: files of hf-compress beside those of Optimum, in Optimum's own environment.

    hf-compress export MODEL --to onnx --int8 --data DATA --output OURS
    .venv-optimum/bin/python benchmarks/int8_peers.py MODEL DATA OURS/model.onnx OURS/model.int8.onnx

Optimum 2.1 with optimum-onnx needs transformers 4, so it cannot share an environment with hf-compress. It quantises as
its documentation shows: statically on 128 spread training images, with a range for each tensor or for each channel of
the weights, and dynamically. All files are asked about the same validation images of DATA, an imagefolder or a folder
of parquet files, and timed in turn, on one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from datasets import Dataset, load_dataset
from optimum.onnxruntime import ORTModelForImageClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig
from transformers import AutoImageProcessor

CALIBRATION, ROUNDS = 128, 300
SCHEMES = {
    "Optimum, static": {"is_static": True, "per_channel": False},
    "Optimum, static, per channel": {"is_static": True, "per_channel": True},
    "Optimum, dynamic": {"is_static": False, "per_channel": True},
}


def quantised(model: str, images: list[np.ndarray], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of what Optimum makes of a model; first that in float32."""
    ORTModelForImageClassification.from_pretrained(model, export=True).save_pretrained(folder / "float32")
    yield "Optimum, float32", folder / "float32" / "model.onnx"
    data = Dataset.from_dict({"pixel_values": [image.tolist() for image in images]}).with_format("np")
    for name, options in SCHEMES.items():
        config, ranges = AutoQuantizationConfig.avx512_vnni(**options), None
        quantizer = ORTQuantizer.from_pretrained(folder / "float32")
        if config.is_static:
            ranges = quantizer.fit(
                dataset=data,
                calibration_config=AutoCalibrationConfig.minmax(data),
                operators_to_quantize=config.operators_to_quantize,
            )
        quantizer.quantize(save_dir=folder / name, calibration_tensors_range=ranges, quantization_config=config)
        yield name, folder / name / "model_quantized.onnx"


def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options)


def main(model: str, data: str, *ours: str) -> None:
    processor = AutoImageProcessor.from_pretrained(model, use_fast=False)

    def pixels(row: dict) -> np.ndarray:
        return processor(row["image"].convert("RGB"), return_tensors="np")["pixel_values"].astype(np.float32)

    rows = load_dataset(data)
    spread = np.linspace(0, len(rows["train"]) - 1, CALIBRATION).astype(int)
    with TemporaryDirectory() as place:
        files = dict(quantised(model, [pixels(rows["train"][int(index)])[0] for index in spread], Path(place)))
        files |= {f"hf-compress, {Path(file).name}": Path(file) for file in ours}
        sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        sessions = {name: session(file) for name, file in files.items()}
    names = {name: runtime.get_inputs()[0].name for name, runtime in sessions.items()}
    right: dict[str, list[bool]] = {name: [] for name in files}
    for row in rows["validation"]:
        image = pixels(row)
        for name, runtime in sessions.items():
            right[name].append(int(runtime.run(None, {names[name]: image})[0].argmax()) == row["label"])
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, runtime in sessions.items():
            begun = time.perf_counter()
            runtime.run(None, {names[name]: image})
            times[name].append(1000 * (time.perf_counter() - begun))
    first = next(iter(files))
    print(f"| {len(right[first]):,} images | file | accuracy | against float32 (95 %) | one image, p50 |")
    print("|---|---|---|---|---|")
    for name in files:
        lost = 100 * (np.array(right[name], float) - np.array(right[first], float))
        against = f"{lost.mean():+.2f} ± {1.96 * lost.std() / len(lost) ** 0.5:.2f}"
        time_of_one = f"{statistics.median(times[name]):.2f} ms"
        print(f"| {name} | {sizes[name]:.2f} MB | {100 * np.mean(right[name]):.2f} % | {against} | {time_of_one} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
