"""A few test pictures, from the best to the worst, with what models say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_compress.sections.models import TEACHER
from hf_compress.tasks.base import Metric, Task
from hf_compress.tasks.sheets import FINAL, TRUTH

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor, PreTrainedModel

    from hf_compress.data import ImageSplit
    from hf_compress.models.load import LoadedModel

ROWS = 5


class Look(NamedTuple):
    """A test picture as a model's input shows it, uint8 (height, width, 3), and what is said of it.

    Attributes:
        name: `best`, `median`, `worst`, or nothing.
        tall: see `Panel`.
        said: by `TRUTH`, `TEACHER` and `FINAL`, all of one form.
    """

    name: str
    picture: np.ndarray
    tall: float
    said: dict[str, Any]


def looks(
    task: Task,
    models: Mapping[str, LoadedModel],
    images: ImageSplit,
    by_image: Sequence[float],
    by_teacher: bool,
    say: Callable[[LoadedModel, Any, Tensor], Any],
) -> list[Look]:
    """Ask models about a few test images.

    Args:
        models, images, by_image, by_teacher: see `Task.examples`.
        say: makes of a model, its output for one picture, and the picture's targets (see `Task.targets`) what stands
            beside these targets.
    """
    from hf_compress.data.geometry import pictures_shown, pixel_height
    from hf_compress.ground.looking import twin

    found, final = [], models[FINAL]
    twins = {who: twin(loaded.model) for who, loaded in models.items()}
    for index, name in ranked(images, by_image, task.deciding).items():
        (item,) = images.without_augmentation().__getitems__([index])
        truth = task.targets([item], final.processor)["labels"][0]
        said = {TEACHER if by_teacher else TRUTH: truth}
        for who, loaded in models.items():
            if who not in said:
                said[who] = say(loaded, _asked(twins[who], loaded.processor, item), truth)
        picture = pictures_shown(final.processor, [item["view"]])[0].permute(1, 2, 0).numpy()
        found.append(Look(name, picture, pixel_height(final.processor, item["view"].shape[-2:]), said))
    return found


def _asked(model: PreTrainedModel, processor: BaseImageProcessor, item: dict[str, Any]) -> Any:
    import torch

    from hf_compress.data.images import preprocess

    with torch.inference_mode():
        return model(pixel_values=preprocess(processor, [item["view"]]))


def ranked(images: ImageSplit, by_image: Sequence[float], metric: Metric) -> dict[int, str]:
    """Choose five images that have a label, by the metric of each: the best, the median, the worst and two between.

    Where the metric is not known of each, they are spread evenly, and have no names.
    """
    from hf_compress.data.images import evenly_spread

    known = labelled(images)
    if len(by_image) != len(images.labels) or not known:
        return dict.fromkeys((known[place] for place in evenly_spread(len(known), ROWS)), "")
    values = np.asarray(by_image, dtype=float)[known]
    order = np.argsort(-values if metric.higher_is_better else values, kind="stable")
    last = len(known) - 1
    names = {last // 2: "median", last: "worst", 0: "best"}
    places = sorted({0, last // 4, last // 2, 3 * last // 4, last})
    return {known[order[place]]: names.get(place, "") for place in places}


def labelled(images: ImageSplit) -> list[int]:
    """Return the indices of the images that have a label."""
    return [index for index, label in enumerate(images.labels) if not (isinstance(label, int) and label < 0)]
