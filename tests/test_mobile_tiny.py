"""The shipped recipe `mobile-tiny`, made so small that it runs on digits in seconds."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_compress import Recipe, compress
from hf_compress.checkpoint.rewrites import record_rewrites
from hf_compress.report.card_facts import what_was_done

TRAINING = {"epochs": 2, "learning_rate": 3e-3}
OVERRIDES = {
    "teacher": {"model": "resnet18", "width": 0.25, "image_size": 32, "finetune": TRAINING},
    "student.width": 0.125,
    "student.image_size": 32,
    "data": {
        "path": "digits",
        "splits": {"train": "train[:300]", "validation": "train[300:364]", "test": "train[364:464]"},
    },
    "steps.0.distill.epochs": 2,
    "steps.1.rewrite.images": 32,
    "steps.2.prune.round_to": 2,
    "steps.3.distill.epochs": 1,
    "measure": {"batch_size": 4, "repeats": 3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = Recipe.load("mobile-tiny", OVERRIDES)
    return compress(recipe, tmp_path_factory.mktemp("runs") / "out", log=lambda line: None)


@pytest.mark.long
def test_one_report_tells_what_every_step_did(run):
    rows = {row["stage"]: row for row in run.report["rows"]}
    assert list(rows) == ["teacher", "student", "1 distill", "2 rewrite", "3 prune", "4 distill"]
    macs = {stage: row["cost"]["macs"] for stage, row in rows.items()}
    assert macs["2 rewrite"] <= 0.5 * macs["1 distill"] == 0.5 * macs["student"]
    assert macs["3 prune"] < 0.7 * macs["2 rewrite"]
    assert macs["4 distill"] == macs["3 prune"]
    details = rows["2 rewrite"]["details"]
    assert details["macs"] == [macs["1 distill"], macs["2 rewrite"]] and details["budget_reached"]
    assert "layers rewritten (separable), logits off by" in what_was_done(rows["2 rewrite"])
    assert "rewritten (separable)" in (run.folder / "README.md").read_text()


@pytest.mark.long
def test_the_folder_reloads_and_its_recipe_runs_again(run):
    model = AutoModelForImageClassification.from_pretrained(run.folder).eval()
    kinds = {record["kind"] for record in record_rewrites(model).values()}
    assert kinds == {"separable"}
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 10)
    assert Recipe.load(run.folder / "recipe.yaml").step_names == ["distill", "rewrite", "prune", "distill"]
