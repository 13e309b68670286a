"""Students that know something before they learn: a thinner teacher in a whole run, and what is refused."""

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification, ViTConfig, ViTImageProcessor, ViTModel

from hf_compress import Recipe, compress, save
from hf_compress.ground.errors import RunError, UsageError

SPLITS = {"train": "train[:300]", "validation": "train[300:340]", "test": "train[400:600]"}
TRAINING = {"epochs": 4, "learning_rate": 3e-3}
RECIPE = {
    "teacher": {"model": "resnet18", "width": 0.25, "image_size": 32, "finetune": TRAINING},
    "student": {"model": "teacher", "width": 0.5},
    "data": {"path": "digits", "splits": SPLITS},
    "steps": [{"distill": TRAINING | {"epochs": 1}}],
    "measure": {"batch_size": 1, "repeats": 3},
}


@pytest.mark.long
def test_a_thinner_copy_of_the_teacher_is_measured_before_it_learns(tmp_path):
    lines = []
    run = compress(Recipe.from_dict(RECIPE), tmp_path / "run", log=lines.append)
    teacher, student, last = run.report["rows"]
    assert [row["stage"] for row in run.report["rows"]] == ["teacher", "student", "1 distill"]
    assert student["cost"]["parameters"] < 0.3 * teacher["cost"]["parameters"]
    assert student["cost"]["parameters"] == last["cost"]["parameters"]
    assert teacher["quality"]["accuracy"] > 0.65 and student["quality"]["accuracy"] > 0.5
    copy = student["details"]["copy_of_the_teacher"]
    assert (copy["width"], copy["depth"]) == (0.5, 1.0) and 0 < copy["output_error"] < 1
    assert run.report["loads_with"] == "transformers"
    assert AutoModelForImageClassification.from_pretrained(run.folder).config.hidden_sizes == [8, 16, 32, 64]
    assert run.report["student"] == run.report["teacher"]
    assert "copy of the teacher, width 0.5, depth 1: outputs off by" in (run.folder / "README.md").read_text()
    assert "student: a copy of the teacher, width 0.5, depth 1" in lines
    saved = yaml.safe_load((run.folder / "recipe.yaml").read_text())["student"]
    assert saved["model"] == "teacher" and saved["width"] == 0.5


def test_what_the_teacher_does_not_have_is_refused_before_it_is_trained(tmp_path):
    recipe = Recipe.from_dict(
        RECIPE
        | {
            "teacher": RECIPE["teacher"] | {"model": "mobilenet_v1", "finetune": {"epochs": 1000}},
            "student": {"model": "teacher", "depth": 0.5},
        }
    )
    with pytest.raises(RunError, match=r"'student.depth' 0.5 cannot be had of mobilenet_v1"):
        compress(recipe, tmp_path / "run", log=lambda line: None)


def test_a_thinner_copy_of_a_backbone_without_its_pooling_layer_is_refused(tmp_path):
    """Its class would make the layer anew, of random weights, when the copy is loaded."""
    torch.manual_seed(0)
    options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=16, patch_size=8, **options)
    save(
        ViTModel(config, add_pooling_layer=False),
        tmp_path / "teacher",
        ViTImageProcessor(size={"height": 16, "width": 16}),
    )
    recipe = Recipe.from_dict(
        {
            "task": "features",
            "teacher": str(tmp_path / "teacher"),
            "student": {"model": "teacher", "depth": 0.5},
            "data": {"path": "digits", "splits": SPLITS},
            "steps": ["distill_features"],
        }
    )
    with pytest.raises(UsageError, match="came without its pooling layer"):
        compress(recipe, tmp_path / "run", log=lambda line: None)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ({"model": "teacher", "width": 1.4}, "'student.width' 1.4 is more than the teacher has"),
        ({"model": "teacher", "pretrained": "auto"}, "'student.pretrained' does not go with 'student.model: teacher'"),
        ({"model": "resnet18", "depth": 0.5}, "'student.depth' is of a copy of the teacher"),
        ({"model": "./folder", "pretrained": "auto"}, "'student.pretrained' names weights of a registered"),
        ({"model": "teacher", "depth": 0}, "'student.depth' cannot be 0"),
        (
            {"model": "auto", "budget": {"macs": 1}, "pretrained": "auto"},
            "'student.pretrained' does not go with 'student.model: auto'",
        ),
    ],
)
def test_impossible_combinations_are_one_sentence(student, says):
    with pytest.raises(UsageError) as error:
        Recipe.from_dict(RECIPE | {"student": student})
    assert says in str(error.value)


def test_an_ensemble_has_no_thinner_copy():
    ensemble = {"ensemble": ["some/model", "other/model"]}
    with pytest.raises(UsageError, match="which is an ensemble: name a single model"):
        Recipe.from_dict(RECIPE | {"teacher": ensemble})
