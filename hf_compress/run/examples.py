"""The test images that a card shows, with what the final model says of them."""

import math
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Subset

from hf_compress.data import ImageSplit
from hf_compress.data.images import evenly_spread
from hf_compress.models.load import LoadedModel
from hf_compress.report.examples import EXAMPLES, draw_examples
from hf_compress.tasks import Task

LOOKED_AT = 32


def write_examples(
    loaded: LoadedModel, images: ImageSplit, by_image: Sequence[float], task: Task, folder: Path
) -> None:
    """Draw some test images into a folder; nothing where the task shows none.

    Args:
        by_image: the deciding metric of each image, of which 32 with 0 and 32 others are looked at, spread evenly;
            where it is not of all images, 32 of these.
    """
    total = len(images)
    wrong = {index for index, value in enumerate(by_image) if value == 0} if len(by_image) == total else set()
    parts = [part for part in (sorted(wrong), [i for i in range(total) if i not in wrong]) if part]
    looked_at = sorted(part[index] for part in parts for index in evenly_spread(len(part), LOOKED_AT))
    seen = Subset(images.without_augmentation(), looked_at)
    items = [item for item in (seen[number] for number in range(len(seen))) if _labelled(item)]
    shown = task.shown(loaded, items)
    pictures = [item["view"].permute(1, 2, 0).numpy() for item in items[: len(shown)]]
    examples = [each for each in zip(pictures, shown, strict=True) if math.isfinite(each[1].share)]
    if examples:
        draw_examples(examples, folder / EXAMPLES)


def _labelled(item: dict) -> bool:
    return isinstance(item["label"], int) and item["label"] >= 0
