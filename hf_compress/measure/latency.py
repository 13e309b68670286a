"""How long models take, in several runtimes, compared fairly."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_compress.data.images import fitting_number
from hf_compress.device.timing import of_times, timed_in_turns
from hf_compress.ground.looking import twin
from hf_compress.ground.processor import compiled
from hf_compress.ground.progress import track
from hf_compress.ground.tensors import use_channels_last
from hf_compress.measure.intervals import speedup
from hf_compress.models.exporting import exportable
from hf_compress.runtimes import runtime
from hf_compress.sections.measure import SECOND, MeasureSection

COMPARABLE = 10  # passes, of which an interval can tell something


def measure_latency(
    models: Sequence[PreTrainedModel],
    images: Sequence[torch.Tensor | tuple[torch.Tensor, ...]],
    batch_sizes: Sequence[int],
    repeats: int,
    threads: int | None = None,
    runtime: str = "eager",
    against: str | None = None,
) -> list[dict[str, dict[str, float]]]:
    """Time forward passes on the CPU, the models in turn, so that a slow moment of the machine meets all of them.

    Args:
        models: models to compare, in float32; timed with channels-last weights.
        images: one input a model, shape (1, 3, height, width); for an ensemble, a tuple of them.
        batch_sizes: every one is timed.
        repeats: timed passes a model and batch size, after warm-up.
        threads: CPU threads; torch's own number when None.
        runtime: one of `PREPARE`.
        against: see `time_in_turns`.

    Returns:
        For each model `{"batch_1": {"p50_ms": ..., "p95_ms": ..., "noise": ...}, ...}`, of the whole batch; see
        `time_in_turns`.
    """
    results: list[dict[str, dict[str, float]]] = [{} for _ in models]
    twins = [twin(model) for model in models]
    for model in twins:
        use_channels_last(model)
    with cpu_threads(threads):
        prepared = [
            PREPARE[runtime](model, image, torch.get_num_threads()) for model, image in zip(twins, images, strict=True)
        ]
        for size in batch_sizes:
            batches = [repeated(image, size) for image in images]
            calls = [partial(run, batch) for run, batch in zip(prepared, batches, strict=True)]
            times = time_in_turns(calls, repeats, f"{runtime}, batch {size}", against)
            for result, entry in zip(results, times, strict=True):
                result[f"batch_{size}"] = entry
    return results


def second_batch(measure: MeasureSection, images: Iterable[torch.Tensor | tuple[torch.Tensor, ...]]) -> int:
    """Return how many images the second batch has: what is not said fits the memory, whichever model is timed.

    Args:
        images: one input a model, as of `measure_latency`.
    """
    parts = [part for image in images for part in (image if isinstance(image, tuple) else (image,))]
    return measure.batch_size or min(fitting_number(*part.shape[-2:], SECOND) for part in parts)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads in a `with` block; its own number when None."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count or usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def repeated(image: torch.Tensor | tuple[torch.Tensor, ...], size: int) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Return a batch of one image, channels-last; of an ensemble's inputs, a tuple."""
    if isinstance(image, tuple):
        return tuple(repeated(one, size) for one in image)
    return image.repeat(size, 1, 1, 1).contiguous(memory_format=torch.channels_last)


def time_in_turns(
    calls: Sequence[Callable[[], Any]], repeats: int, what: str, against: str | None = None
) -> list[dict[str, Any]]:
    """Time functions in turn, so that a slow moment of the machine meets all of them, `repeats` times after warm-up.

    Args:
        against: what the first function is called. Where it has a name, the others are compared with it.

    Returns:
        For each function `p50_ms`, `p95_ms` and `noise`: see `of_times`; and where there were ten passes, `speedup`:
        `against`, and what `intervals.speedup` returns.
    """
    with torch.inference_mode():
        seconds = timed_in_turns(calls, repeats, lambda turns: track(range(turns), f"Measuring latency, {what}"))
    found: list[dict[str, Any]] = [of_times(times) for times in seconds]
    if against is not None and repeats >= COMPARABLE:
        for entry, times in zip(found[1:], seconds[1:], strict=True):
            entry["speedup"] = {"against": against, **speedup(seconds[0], times)}
    return found


def eager(model: PreTrainedModel, image: torch.Tensor, threads: int) -> Callable[[torch.Tensor], Any]:
    return lambda batch: model(pixel_values=batch)


def compile(model: PreTrainedModel, image: torch.Tensor, threads: int) -> Callable[[torch.Tensor], Any]:
    return eager(compiled(model), image, threads)


def onnxruntime(model: PreTrainedModel, image: torch.Tensor, threads: int) -> Callable[[torch.Tensor], Any]:
    """The export of `hf-compress export --to onnx`, in memory only."""
    onnx = runtime("onnx")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.write(exportable(model, image), file)
        call = onnx.load(file, threads)
    return lambda batch: call(batch.contiguous().numpy())


PREPARE = {  # what makes a function of a model, one input and a number of threads
    "eager": eager,
    "compile": compile,
    "onnxruntime": onnxruntime,
}
