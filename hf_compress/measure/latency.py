"""How long models take, compared fairly."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence

import torch
from rich.progress import track
from transformers import PreTrainedModel

WARM_UP = 3


def measure_latency(
    models: Sequence[PreTrainedModel],
    images: Sequence[torch.Tensor],
    batch_sizes: Sequence[int],
    repeats: int,
    threads: int | None = None,
) -> list[dict[str, dict[str, float]]]:
    """Time forward passes on the CPU, the models in turn, so that a slow moment of the machine meets all of them.

    Args:
        models: models to compare, in float32 with channels-last weights.
        images: one input a model, shape (1, 3, height, width).
        batch_sizes: every one is timed.
        repeats: timed passes a model and batch size, after warm-up.
        threads: CPU threads; torch's own number when None.

    Returns:
        For each model `{"batch_1": {"p50_ms": ..., "p95_ms": ...}, ...}`, milliseconds for the whole batch.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    results: list[dict[str, dict[str, float]]] = [{} for _ in models]
    try:
        with torch.inference_mode():
            for size in batch_sizes:
                batches = [
                    image.repeat(size, 1, 1, 1).contiguous(memory_format=torch.channels_last) for image in images
                ]
                seconds: list[list[float]] = [[] for _ in models]
                for turn in track(range(WARM_UP + repeats), f"Measuring latency, batch {size}", transient=True):
                    for model, batch, times in zip(models, batches, seconds, strict=True):
                        start = time.perf_counter()
                        model(pixel_values=batch)
                        if turn >= WARM_UP:
                            times.append(time.perf_counter() - start)
                for result, times in zip(results, seconds, strict=True):
                    quantiles = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95]).double())
                    p50, p95 = (1000 * quantiles).tolist()
                    result[f"batch_{size}"] = {"p50_ms": p50, "p95_ms": p95}
    finally:
        torch.set_num_threads(usual)
    return results


def device_name() -> str:
    """Return the processor's name as the operating system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
