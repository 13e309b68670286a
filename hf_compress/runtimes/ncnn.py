"""ncnn files, for Raspberry Pis and Android."""

import subprocess
import tempfile
import warnings
from pathlib import Path

from hf_compress.device.opening import open_ncnn
from hf_compress.runtimes.base import Call, Exportable, Runtime, register_runtime


@register_runtime("ncnn")
class Ncnn(Runtime):
    """Converted by pnnx, in a process of its own, from a trace: a PARAM file, the graph, and a BIN file, the weights.

    One image at a time; labels and preprocessing lie in the JSON beside the PARAM file. All is stored and computed in
    float32.
    """

    suffix = ".ncnn.param"
    package = "ncnn"
    extra = "ncnn"
    no_int8 = "the tools that write it, ncnn2table and ncnn2int8, are in neither of the wheels ncnn and pnnx"
    batches = False

    def write(self, model: Exportable, file: Path) -> None:
        import pnnx
        import torch

        graph, weights = self.files(file)
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "model.pt"
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the trace holds for pictures of this one size, as the file does
                torch.jit.trace(model.module, model.image, check_trace=False).save(trace)
            shape = str([*model.image.shape]).replace(" ", "")
            options = [f"inputshape={shape}", f"ncnnparam={graph.resolve()}", f"ncnnbin={weights.resolve()}", "fp16=0"]
            done = subprocess.run([pnnx.EXEC_PATH, trace, *options], cwd=folder, capture_output=True, text=True)
        if done.returncode or not weights.is_file():
            said = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.returncode}"]
            raise RuntimeError(f"pnnx: {said[-1]}")

    def load(self, file: Path, threads: int) -> Call:
        return open_ncnn(file, threads)

    def files(self, file: Path) -> list[Path]:
        return [file, file.with_suffix(".bin")]
