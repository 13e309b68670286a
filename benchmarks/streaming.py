"""Memory of a stream of a million images.

    python benchmarks/streaming.py [IMAGES]

Reads, shuffles and decodes every image of one epoch, as a training with `data.streaming` does, and prints a Markdown
table of the process's memory on the way. The pictures are JPEG files of 32x32 pixels, made while they are read.
"""

import io
import sys
import time
from collections.abc import Iterator

import datasets
import numpy as np
import psutil
from PIL import Image

from hf_compress.data.streaming import ImageStream

FEATURES = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
PERCENTS = (1, 10, 25, 50, 100)


def pictures(count: int) -> Iterator[dict]:
    """Give JPEG files; a comment behind the picture makes each another one."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, "JPEG")
    for number in range(count):
        yield {"image": {"bytes": encoded.getvalue() + number.to_bytes(8, "big"), "path": None}, "label": number % 10}


def main(count: int) -> None:
    rows = datasets.IterableDataset.from_generator(pictures, features=FEATURES, gen_kwargs={"count": count})
    marks = {count * percent // 100: percent for percent in PERCENTS}
    process, started = psutil.Process(), time.perf_counter()
    print("| images | of the stream | their JPEG files | memory of the process | images/s |\n|---|---|---|---|---|")
    size = len(next(pictures(1))["image"]["bytes"])
    for number, _ in enumerate(ImageStream(rows, "image", "label", count), start=1):
        if number in marks:
            rate = number / (time.perf_counter() - started)
            memory = process.memory_info().rss / 1e6
            print(
                f"| {number:,} | {marks[number]} % | {number * size / 1e6:.0f} MB | {memory:.0f} MB | {rate:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
