"""The matrix of `docs/architectures.md`: every family through every capability, for real.

`python -m tests.architectures` writes the file, with names of families only their rows; `tests/test_architectures.py`
checks that it is current.
"""

from __future__ import annotations

import copy
import math
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from unittest import mock

import torch

from hf_compress import load, save
from hf_compress.data import ImageData, load_data
from hf_compress.data.images import input_size, spread
from hf_compress.ground.errors import CompressError
from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import in_rows, output_error, outputs_of
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.load import LoadedModel
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning import loop
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner, prunable_weights, sparsity
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.context import Context
from tests.families import FAMILIES, Family

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
CHANNELS = {"round_to": 2, "amount": 0.4, "iterative": False}
CAPABILITIES = ("teacher", "student", "weights", "channels", "repair", "distil", "reload")
INTRODUCTION = """# Architectures

Written by `python -m tests.architectures` from tiny models with random weights; the tests check that it is current.

- **teacher, student**: loaded from a saved folder with `hf_compress.load`, as either.
- **weights**: half of the weights become zero.
- **channels**: one shot of `prune` with `amount: 0.4` really removes channels; the parameters and MACs that are gone.
- **groups**: what can lose channels, in groups: single channels + blocks of them (attention heads, groups of a grouped
  convolution or a group norm).
- **repair**: how much of the error of the pruned model's outputs for 32 random images is gone when layers are solved
  anew by these, and why some are passed over. What `importance: obs` and `scope: cost` choose is repaired, too.
- **distil**: the pruned model takes a training step towards the logits of the unpruned one.
- **reload**: saved and loaded again with `from_pretrained`, the logits are equal to the last bit.
- **kept whole**: why layers keep their channels, and how many do; a run's report names each of them.

| family | teacher | student | weights | channels | groups | repair | distil | reload | kept whole |
|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass
class Row:
    """What was found out about a family.

    Attributes:
        done: capability -> what the page says of it; a capability that failed is missing.
        groups: groups that lose single channels, and blocks.
        kept: layer -> the reason why its channels stay.
        failure: the first error, as the user sees it.
    """

    family: str
    done: dict[str, str] = field(default_factory=dict)
    groups: tuple[int, int] = (0, 0)
    kept: dict[str, str] = field(default_factory=dict)
    failure: str = ""

    def line(self) -> str:
        cells = [self.done.get(name, "no") for name in CAPABILITIES]
        cells.insert(4, f"{self.groups[0]} + {self.groups[1]}" if any(self.groups) else "")
        return "| " + " | ".join([self.family, *cells, self.failure or _counted(self.kept)]) + " |\n"


def _counted(layers: dict[str, str]) -> str:
    """Return the reasons why layers stay as they are, and of how many."""
    reasons = Counter(re.sub(r" in '[^']*'", "", reason) for reason in layers.values())
    return "; ".join(f"{reason} ({count})" for reason, count in reasons.items())


@cache
def examine(family: Family) -> Row:
    """Put a family through everything."""
    row = Row(family.name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _examine(family, row, Path(folder))
        except (CompressError, ImportError) as error:
            row.failure = " ".join(str(error).split()).replace(f"{folder}/", "").partition(". ")[0]
    return row


def _examine(family: Family, row: Row, folder: Path) -> None:
    custom = not family.config
    built = family.build()
    save(built, folder / "teacher", family.processor())
    teacher = load(str(folder / "teacher"), trust_remote_code=custom)
    images = torch.rand(32, 3, *input_size(teacher.processor), generator=torch.Generator().manual_seed(0))
    image = images[:2]
    assert torch.equal(_logits(teacher, image), _logits(built, image))
    row.done["teacher"] = "yes"

    student = load(str(folder / "teacher"), trust_remote_code=custom)
    assert _logits(student, image).shape == (2, 10)
    row.done["student"] = "yes"

    sparse = copy.deepcopy(student.model)
    weights = prunable_weights(sparse, set())
    WeightPruner(sparse, PruneSection(granularity="weight", floor=0), set()).prune(sparse, 0.5)
    assert abs(sparsity(weights) - 0.5) < 0.01
    assert torch.isfinite(_logits(sparse, image)).all()
    row.done["weights"] = "yes"

    context = Context(_data(), student.processor, teacher, 0, folder, log=lambda line: None)
    recovery = {"epochs": 1, "loss": "kl", "batch_size": 64, "learning_rate": 1e-3}
    config = PruneSection(**CHANNELS, recovery=recovery)
    pruner = ChannelPruner(student.model, torch.zeros_like(image[:1]), config, set())
    groups = pruner.groups(student.model)
    with mock.patch.object(loop, "build_pruner", return_value=pruner):  # to find the groups once takes long enough
        result = loop.prune_model(student.model, context, config)
    pruned = result.model
    gone = {
        "parameters": 1 - count_parameters(pruned) / count_parameters(built),
        "MACs": 1 - count_macs(pruned, image[:1]) / count_macs(built, image[:1]),
    }
    assert min(gone.values()) > 0
    row.done["channels"] = ", ".join(f"{name} -{share:.0%}" for name, share in gone.items())
    assert result.details["rounds"][0]["output_error_after"] <= result.details["rounds"][0]["output_error_before"]
    row.done["repair"] = _repaired(student, pruner, config, images)
    by_cost = PruneSection(importance="obs", scope="cost", **CHANNELS)
    _repaired(student, pruner, by_cost, images)
    row.kept = result.details["protected_layers"]
    row.done["distil"] = "yes"
    blocks = sum(group.unit > 1 for group in groups)
    row.groups = (len(groups) - blocks, blocks)

    pruned.to(memory_format=torch.contiguous_format)
    save(pruned, folder / "pruned", student.processor)
    again = load(str(folder / "pruned"), trust_remote_code=custom)
    assert torch.equal(_logits(again, image), _logits(pruned, image))
    row.done["reload"] = "yes"


def _repaired(loaded: LoadedModel, pruner: ChannelPruner, config: PruneSection, images: torch.Tensor) -> str:
    """Remove channels of a copy as `config` says, solve its layers anew by images, and say what came of it."""
    calibration = Calibration(spread(_data().train, 32), loaded.processor, loaded.model, CLASSIFICATION)
    scores = score(loaded.model, pruner.groups(loaded.model), config, calibration)
    whole, pruned = twin(loaded.model), copy.deepcopy(loaded.model).eval()
    with mock.patch.object(pruner, "config", config):
        kept = pruner.remove(pruned, scores, config.amount)
    assert kept
    expected = in_rows(outputs_of(whole, [images])).double()
    before = output_error(pruned, [images], expected)
    passed_over = least_squares(whole, pruned, kept, [images])
    after = output_error(pruned, [images], expected)
    assert after <= before, f"{config.importance}: {before} -> {after}"
    gone = f"error -{math.floor(100 * (1 - after / before))}%"
    return f"{gone}; {_counted(passed_over)}" if passed_over else gone


@cache
def _data() -> ImageData:
    splits = {"train": "train[:40]", "validation": "train[300:308]", "test": "train[400:408]"}
    return load_data(DataSection(path="digits", splits=splits), 0)


def _logits(model, image: torch.Tensor) -> torch.Tensor:
    """Return the logits of a copy: weights that lie in a mapped file are aligned otherwise, and round otherwise."""
    model = copy.deepcopy(model.model if isinstance(model, LoadedModel) else model).eval()
    with torch.no_grad():
        return model(pixel_values=image).logits


def page(lines: list[str]) -> str:
    """Return the text of the page for the lines of the table."""
    complete = sum("| no |" not in line for line in lines)
    return f"{INTRODUCTION}{''.join(lines)}\n{complete} of {len(lines)} families pass everything.\n"


def written(names: list[str]) -> str:
    """Return the page with the rows of these families new and the others as they stand there; of none, all are new."""
    lines = {line.split(" | ")[0]: f"{line}\n" for line in PAGE.read_text().splitlines()} if names else {}
    rows = [lines.get(f"| {family.name}", "") if family.name not in names else "" for family in FAMILIES]
    return page([row or examine(family).line() for row, family in zip(rows, FAMILIES, strict=True)])


if __name__ == "__main__":
    PAGE.write_text(written(sys.argv[1:]))
