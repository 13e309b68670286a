"""Is a MobileNetV2 faster when four fifths of its 1x1 convolutions are zero? Dense and sparse in turn, one process.

    python benchmarks/sparse_inference.py --runtime executorch --runtime onnx --runtime openvino
    python benchmarks/sparse_inference.py --runtime litert      # in an environment with hf-compress[litert]

For LiteRT there is a third file, in the form that is documented as the condition of XNNPACK's sparse kernels.
"""

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from hf_compress.ground.processor import device_name
from hf_compress.measure.latency import time_in_turns
from hf_compress.models.exporting import exportable
from hf_compress.models.folding import fold_batch_norms
from hf_compress.models.students import build_registered
from hf_compress.runtimes import runtime
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import WeightPruner

SIZE = 225  # odd, so that a padding of one on each side is the format's own and needs no separate operation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", required=True, help="executorch, litert, onnx or openvino")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    dense = build_registered("mobilenet_v2", [str(label) for label in range(1000)], image_size=SIZE).model.eval()
    image = torch.randn(1, 3, SIZE, SIZE)
    torch.optim.swa_utils.update_bn([image], dense)  # random weights, but activations of ordinary size
    models = {"dense": fold_batch_norms(dense.eval(), image)}
    models["sparse"] = zeroed(models["dense"], arguments.sparsity)
    print(f"{device_name()}, {arguments.threads} thread(s), one image, median of {arguments.repeats}")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.runtime:
            report(name, written(name, models, image, Path(folder)), image, arguments)


def zeroed(model: nn.Module, sparsity: float) -> nn.Module:
    """Return a copy whose 1x1 convolutions have that fraction of zeros each."""
    model = copy.deepcopy(model)
    others = {name for name, module in model.named_modules() if getattr(module, "kernel_size", None) != (1, 1)}
    WeightPruner(model, PruneSection(granularity="weight", floor=0.0), others).prune(model, sparsity)
    return model


def written(name: str, models: dict[str, nn.Module], image: torch.Tensor, folder: Path) -> dict[str, Path]:
    """Return the exported files by what is in them."""
    target = runtime(name)
    files = {kind: folder / f"{kind}{target.suffix}" for kind in models}
    for kind, model in models.items():
        target.write(exportable(model, image), files[kind])
    if name == "litert":
        from sparse_tflite import without_zeros

        files["sparse, stored sparsely"] = folder / "stored-sparse.tflite"
        files["sparse, stored sparsely"].write_bytes(without_zeros(files["sparse"].read_bytes()))
    return files


def report(name: str, files: dict[str, Path], image: torch.Tensor, arguments: argparse.Namespace) -> None:
    calls = {kind: runtime(name).load(file, arguments.threads) for kind, file in files.items()}
    logits = {kind: torch.from_numpy(call(image.numpy())[0]) for kind, call in calls.items()}
    times = time_in_turns([partial(call, image.numpy()) for call in calls.values()], arguments.repeats, name)
    for (kind, file), time in zip(files.items(), times, strict=True):
        size = sum(part.stat().st_size for part in runtime(name).files(file))
        difference = (logits[kind] - logits["sparse" if kind.startswith("sparse") else kind]).abs().max().item()
        print(
            f"{name:11} {kind:25} {time['p50_ms']:7.2f} ms p50, {time['p95_ms']:7.2f} ms p95, "
            f"{times[0]['p50_ms'] / time['p50_ms']:5.2f}x, {size / 1e6:6.2f} MB, "
            f"logits within {difference:.1g} of the same weights"
        )


if __name__ == "__main__":
    main()
