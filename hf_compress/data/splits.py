"""Which images train, validate and test."""

import logging
import math
from collections.abc import Collection
from dataclasses import dataclass, field

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.registry import did_you_mean
from hf_compress.sections.data import SplitsSection

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
LEFT_OUT = 0.1
NO_REST = 0.999  # three times 0.3333 means all images
ALL = "all images"
logger = logging.getLogger(__name__)


@dataclass
class Chosen:
    """Which images have which role before anything is divided.

    Attributes:
        given: indices of images by role, counted through all splits of a data set.
        held_out: what each further role takes of the training images, in this order: their number, a fraction of all
            there are before anything is taken, or None for a tenth and at least one image a class of what is left.
        origin: of every role, in words.
        unlabelled: splits that are passed over because none of their images has a label.
    """

    given: dict[str, np.ndarray]
    held_out: dict[str, float | int | None] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)

    @property
    def used(self) -> np.ndarray:
        """The indices of all images that have a role, sorted, each once."""
        return np.unique(np.concatenate(list(self.given.values())))


def choose(sizes: dict[str, int], section: SplitsSection, labelled: Collection[str]) -> Chosen:
    """Choose the images of every role.

    What the recipe leaves open: `validation` and `test` are found by their usual names, unless they have no label
    where others have (as the test images of ImageNet). Where a data set has one held-out split only, it is the test
    set, and a tenth of the training images validates: choosing the best epoch on the images that are reported would
    flatter every figure.

    Args:
        labelled: the splits in which an image has a label; empty where the data has none.

    Raises:
        UsageError: a named split does not exist.
    """
    wanted = {role: getattr(section, role) for role in USUAL_NAMES}
    if isinstance(wanted["train"], float):
        return _by_fractions(sum(sizes.values()), wanted)
    taken = {name for name in wanted.values() if isinstance(name, str)} | {(wanted["train"] or "").partition("[")[0]}
    usual, unlabelled = _usual(sizes, taken, labelled)
    unlabelled = {role: name for role, name in unlabelled.items() if wanted[role] is None}
    found = {role: wanted[role] or usual[role] for role in USUAL_NAMES}
    if found["train"] is None:
        raise UsageError(f"the data set has no split 'train': name one of {', '.join(sizes)} in 'data.splits.train'")
    if wanted["validation"] is None and found["test"] is None and found["validation"]:
        found["test"], found["validation"] = found["validation"], None
    chosen = Chosen({}, unlabelled=list(unlabelled.values()))
    for role, name in found.items():
        if isinstance(name, str):
            chosen.given[role] = named_slice(sizes, name, f"data.splits.{role}")
            chosen.origin[role] = f"split {name}"
            if role not in {"train", *unlabelled} and labelled and name.partition("[")[0] not in labelled:
                logger.warning(
                    "'data.splits.%s': no image of '%s' has a label, so there is no accuracy on it", role, name
                )
                chosen.origin[role] += " (without labels)"
    for role in ("test", "validation"):
        if role not in chosen.given:
            chosen.held_out[role] = found[role]
            chosen.origin[role] = f"{found[role] or LEFT_OUT:.0%} of {chosen.origin['train']}"
    for role, name in unlabelled.items():
        chosen.origin[role] += f" (split {name} has no labels)"
    return chosen


def choose_to_evaluate(sizes: dict[str, int], labelled: Collection[str]) -> Chosen:
    """Choose the images to try a model on that was not trained on this data: the test split, or everything.

    A single held-out split is the test split.
    """
    usual, unlabelled = _usual(sizes, (), labelled)
    test = usual["test"] or usual["validation"]
    if test is None:
        return Chosen({"test": np.arange(sum(sizes.values()))}, origin={"test": ALL})
    found = {role: name for role, name in usual.items() if name not in (None, test)} | {"test": test}
    origin = {role: f"split {name}" for role, name in found.items()}
    if "test" in unlabelled:
        origin["test"] += f" (split {unlabelled['test']} has no labels)"
    given = {role: named_slice(sizes, name, "split") for role, name in found.items()}
    return Chosen(given, origin=origin, unlabelled=list(unlabelled.values()))


def divide(chosen: Chosen, labels: np.ndarray | None, groups: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the indices of the images of every role.

    Args:
        labels: of all images, negative where there is none; None where no image has one.
        groups: of all images, the same number for those that must not be on two sides.

    Raises:
        RunError: there are too few images.
    """
    parts = dict(chosen.given)
    whole = len(parts["train"]) if chosen.held_out else 0
    for role, held_out in chosen.held_out.items():
        pool = parts["train"]
        if isinstance(held_out, float):
            held_out = math.ceil(held_out * whole)
        of_pool = None if labels is None else labels[pool]
        rest, out = stratified(len(pool), of_pool, held_out, seed, groups[pool])
        if held_out is None and len(out) > math.ceil(LEFT_OUT * len(pool)):
            chosen.origin[role] = chosen.origin[role].replace(f"{LEFT_OUT:.0%} of", "at least one image a class of", 1)
        parts["train"], parts[role] = pool[rest], pool[out]
    return {role: parts[role] for role in USUAL_NAMES if role in parts}


def labelled_splits(labels: np.ndarray, sizes: dict[str, int]) -> set[str]:
    """Return the splits in which an image has a label; `labels` are those of all, negative where there is none."""
    ends = np.cumsum(list(sizes.values()))
    return {split for split, own in zip(sizes, np.split(labels, ends[:-1]), strict=True) if (own >= 0).any()}


def sizes_of(data: datasets.DatasetDict) -> dict[str, int]:
    return {split: len(rows) for split, rows in data.items()}


def named_slice(sizes: dict[str, int], instruction: str, key: str) -> np.ndarray:
    """Return the indices of `test`, `test[:500]` or `train[10%:20%]`, in the syntax of `datasets`, through all splits.

    Raises:
        UsageError: there is no such split or slice; names `key`, its place in the recipe.
    """
    name = instruction.partition("[")[0]
    if name not in sizes:
        raise UsageError(f"'{key}' names the split '{name}', which is not there{did_you_mean(name, sizes)}")
    start = sum(list(sizes.values())[: list(sizes).index(name)])
    images = np.arange(start, start + sizes[name])
    if name == instruction:
        return images
    try:
        (bounds,) = datasets.ReadInstruction.from_spec(instruction).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        raise UsageError(f"'{key}' cannot be '{instruction}': {error}") from None
    return images[bounds.from_ or 0 : bounds.to]


def _usual(sizes: dict[str, int], taken: Collection[str], labelled: Collection[str]):
    """Return the split of each role by its usual names, None where there is none, and those that have no labels."""
    usual = {
        role: next((name for name in names if name in sizes and name not in taken), None)
        for role, names in USUAL_NAMES.items()
    }
    held_out = {role: name for role, name in usual.items() if role != "train" and name is not None}
    unlabelled = {role: name for role, name in held_out.items() if labelled and name not in labelled}
    return usual | dict.fromkeys(unlabelled), unlabelled


def _by_fractions(total: int, fractions: dict[str, float]) -> Chosen:
    nothing_left = sum(fractions.values()) > NO_REST
    roles = ("test", "validation") if nothing_left else ("test", "validation", "train")
    return Chosen(
        {"train": np.arange(total)},
        {role: round(fractions[role] * total) for role in roles},
        {role: f"{fractions[role]:.0%} of {ALL}" for role in USUAL_NAMES},
    )


def stratified(
    total: int, labels: np.ndarray | None, held_out: float | int | None, seed: int, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of (rest, held out) of `total` images, with the same share of every label in both.

    Where labels are too many or too rare for equal shares, these are as near as they can be, and each label keeps an
    image in the rest.

    Args:
        held_out: number of images, a fraction, or None for a tenth and at least one image a label.
        groups: the same number for images that must not be on two sides; sizes and shares are exact where no two have
            the same, and else as near as they can be.

    Raises:
        RunError: there are too few images.
    """
    try:
        size = LEFT_OUT if held_out is None else held_out
        _, chosen = train_test_split(np.arange(total), test_size=size, stratify=labels, random_state=seed)
    except ValueError:
        chosen = _nearest_shares(np.zeros(total, int) if labels is None else labels, held_out, seed)
    out = np.zeros(total, bool)
    out[chosen] = True
    if len(np.unique(groups)) < total:
        out = _whole_groups(out, np.zeros(total, int) if labels is None else labels, groups, seed)
    return np.flatnonzero(~out), np.flatnonzero(out)


def _nearest_shares(labels: np.ndarray, held_out: float | int | None, seed: int) -> np.ndarray:
    total = len(labels)
    _, label, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    most = sizes - 1
    if held_out is None:
        shares = np.minimum(np.maximum(np.rint(LEFT_OUT * sizes).astype(int), 1), most)
        count = max(1, shares.sum())
    else:
        count = math.ceil(held_out * total) if isinstance(held_out, float) else held_out
        exact = count * sizes / max(1, total)
        shares = np.minimum(exact.astype(int), most)
    if not 1 <= count <= most.sum():
        classes = f", of {len(sizes)} classes," if len(sizes) > 1 else ""
        raise _cannot_divide(f"{count} of {total} images{classes} cannot")
    generator = np.random.default_rng(seed)
    while shares.sum() < count:
        missing = np.where(shares < most, exact - shares, -np.inf)
        shares[generator.choice(np.flatnonzero(missing == missing.max()))] += 1
    images = [np.flatnonzero(label == index) for index in range(len(sizes))]
    return np.concatenate([generator.permutation(of)[:n] for of, n in zip(images, shares, strict=True)])


def _whole_groups(out: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Let every group follow its first image, and move other groups, the largest first, until the shares are right."""
    _, label = np.unique(labels, return_inverse=True)
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    side = out[first]
    for lost in np.setdiff1d(label, label[~side[group]]):
        side[group[np.argmax(label == lost)]] = False
    rest = np.bincount(label[~side[group]], minlength=label.max() + 1)
    excess = np.bincount(label[~out], minlength=len(rest)) - rest
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(-sizes[order], kind="stable")]
    for index in order:
        if not excess.any():
            break
        gain = np.bincount(label[members[index]], minlength=len(rest)) * (1 if side[index] else -1)
        if np.abs(excess - gain).sum() < np.abs(excess).sum() and (rest + gain).all():
            side[index] = not side[index]
            excess, rest = excess - gain, rest + gain
    if not side.any():
        counts = (np.bincount(label[members[index]], minlength=len(rest)) for index in order[::-1])
        smallest = next((i for i, count in zip(order[::-1], counts, strict=True) if (rest - count).all()), None)
        if smallest is None:
            raise _cannot_divide(f"{len(label)} are copies of {len(first)}, and none can")
        side[smallest] = True
    return side[group]


def _cannot_divide(what: str) -> RunError:
    return RunError(
        f"the images cannot be divided: {what} be held out where each class keeps one to train on: add images, or "
        "name splits of your own in 'data.splits'"
    )
