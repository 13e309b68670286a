"""`round_to: auto` measures this device; what it found is used and reported."""

import pytest
import torch

from hf_compress import Recipe, compress
from hf_compress.ground.errors import UsageError
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.allocate import rounding

PRUNE = {"iterative": False, "amount": 0.3, "round_to": "auto", "recovery": {"epochs": 0}}


@pytest.mark.parametrize("channels", [64, 96, 100, 512])
@pytest.mark.parametrize("multiple", rounding.MULTIPLES)
def test_narrowed_widths_are_odd_multiples_near_the_share(channels, multiple):
    width = rounding.narrowed(channels, multiple)
    assert width % multiple == 0
    assert width % (2 * multiple) == multiple
    assert abs(width - 0.6 * channels) <= 2 * multiple


def test_the_smallest_multiple_among_the_fast_ones_wins(monkeypatch):
    figures = [(1, 1.4), (2, 1.06), (4, 1.04), (8, 1.0), (16, 1.02)]
    monkeypatch.setattr(rounding, "_measured", lambda shapes, threads: figures)
    model = build_registered("resnet18", list("ab"), image_size=32).model
    assert rounding.fastest_multiple(model, torch.zeros(1, 3, 32, 32)) == (4, {str(m): t for m, t in figures})


def test_narrow_models_have_nothing_to_measure():
    model = build_registered("resnet18", list("ab"), width=0.05, image_size=32).model
    assert rounding.fastest_multiple(model, torch.zeros(1, 3, 32, 32)) == (1, {})


@pytest.mark.long
def test_a_run_reports_what_was_measured_and_rounds_to_it(tmp_path):
    pytest.importorskip("onnxruntime")
    small = {"model": "resnet18", "width": 0.25, "image_size": 32, "finetune": {"epochs": 1}}
    recipe = {
        "teacher": small,
        "data": {
            "path": "digits",
            "splits": {"train": "train[:60]", "validation": "train[60:80]", "test": "train[80:99]"},
        },
        "steps": [{"prune": PRUNE}],
        "measure": {"batch_size": 2, "repeats": 3, "runtimes": ["onnxruntime"]},
    }
    run = compress(Recipe.from_dict(recipe), tmp_path / "run", log=lambda line: None)
    pruned = run.report["rows"][-1]
    found = pruned["details"]["rounding"]
    assert found["relative_time"][str(found["round_to"])] <= 1.05
    assert min(found["relative_time"].values()) == 1
    assert set(found["relative_time"]) == {str(multiple) for multiple in rounding.MULTIPLES}
    assert set(pruned["runtimes"]["onnxruntime"]) == {"batch_1", "batch_2"}
    assert isinstance(run.report["remarks"], list)


def test_other_words_are_refused():
    with pytest.raises(UsageError, match=r"'steps.0.prune.round_to' cannot be 'fast'"):
        Recipe.from_dict({"teacher": "a/b", "data": "digits", "steps": [{"prune": {"round_to": "fast"}}]})
