"""The names of classes: in the order of a model's logits, and from one order into another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_compress.ground.errors import RunError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

MOST_LABELS = 100_000  # of a model, and of data


def label_names(config: PretrainedConfig) -> list[str]:
    """Return the class names in the order of the logits; RunError: the config does not number them from 0."""
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    if None in names:
        raise RunError(f"'id2label' of config.json names {len(names)} labels, but none of them {names.index(None)}")
    return list(map(str, names))


def label_options(names: list[str]) -> dict[str, Any]:
    """Return the config options that give a model the labels `names`; PVT does not count them by itself."""
    label2id = {name: index for index, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": label2id, "num_labels": len(names)}


def set_labels(config: PretrainedConfig, names: list[str]) -> None:
    """Make `names` the classes of a model, of which each picture shows one, wherever its config tells of classes.

    timm checkpoints repeat their names, and transformers saves that copy instead of `id2label`. A `problem_type` of
    other tasks would make `pipeline` answer with a sigmoid, or with bare logits.
    """
    config.update(label_options(names))
    for holder in (vars(config), getattr(config, "pretrained_cfg", None) or {}):
        if "label_names" in holder:
            holder["label_names"] = list(names)
        holder.pop("label_descriptions", None)
    if config.problem_type != "single_label_classification":
        config.problem_type = None


def positions(names: list[str], order: list[str]) -> list[int] | None:
    """Return where each of `names` stands in `order`; None when the two sets of names differ.

    Names match exactly; what is left matches without regard to case, blanks and underscores, where that is unique.
    """
    if names == order:
        return list(range(len(order)))
    return _found(names, order) if len(names) == len(order) else None


def among(names: list[str], more: list[str]) -> list[int] | None:
    """Return where each of `names` stands among `more` names; None where one is not there, or not one alone.

    Names match as in `positions`; where one does not match as a whole, it may be one of several between commas, as
    `tench` is of ImageNet's `tench, Tinca tinca`.
    """
    if not names or len(names) >= len(more) or numbered(names):
        return None
    return _found(names, more, synonyms=True)


def numbered(names: list[str]) -> bool:
    """Return whether these are no names, but the classes' numbers: `0`, `1`, ... or transformers' `LABEL_0`, ..."""
    return all(name in (str(index), f"LABEL_{index}") for index, name in enumerate(names))


def labels_of(model: nn.Module | None) -> list[str] | None:
    """Return the class names of a model in the order of its logits; None where it has no config of transformers."""
    config = getattr(model, "config", None)
    return None if getattr(config, "id2label", None) is None else label_names(config)


def order_of(teacher: list[str] | None, student: list[str] | None) -> list[int] | None:
    """Return the index, among a teacher's logits, of each class of its student; None where they have one order.

    Classes match by name, and the teacher may have more, see `among`. Mere numbers on either side, and models that
    name no classes, match by number.

    Raises:
        UsageError: the classes differ.
    """
    if teacher is None or student is None:
        return None
    order = positions(student, teacher) or among(student, teacher)
    by_number = len(teacher) == len(student) and (numbered(teacher) or numbered(student))
    if order is None and not by_number:
        raise UsageError(
            f"the labels of the teacher ({some_labels(teacher)}) are not those of the student "
            f"({some_labels(student)}): give both the same names, in any order, in 'id2label' of their configs"
        )
    return None if order == list(range(len(student))) else order


def reordered(logits: Tensor, order: list[int] | None) -> Tensor:
    """Return logits (batch, classes) in another order of the classes; None leaves them as they are."""
    return logits if order is None else logits[:, order]


def some_labels(names: list[str]) -> str:
    """Return the first names, and how many there are."""
    return ", ".join(names[:3]) + (f" ... ({len(names)} in all)" if len(names) > 3 else "")


def _found(names: list[str], order: list[str], synonyms: bool = False) -> list[int] | None:
    """Return where each of `names` stands in `order`; None where one is not there, not one alone, or two are the same.

    Args:
        synonyms: a name may be one of several between commas, too.
    """
    exact = _places(order, lambda name: {name})
    folded = _places(order, lambda name: {_folded(name)})
    parts = _places(order, lambda name: set(map(_folded, name.split(",")))) if synonyms else {}
    found = [exact.get(name) or folded.get(_folded(name)) or parts.get(_folded(name)) or [] for name in names]
    alone = [places[0] for places in found if len(places) == 1]
    return alone if len(set(alone)) == len(names) else None


def _places(names: list[str], keys: Callable[[str], set[str]]) -> dict[str, list[int]]:
    """Return where each key stands of these names."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        for key in keys(name):
            places.setdefault(key, []).append(index)
    return places


def _folded(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
