"""Chains: every link learns from the one before it, and every link is a row."""

from pathlib import Path

import pytest
import torch
import yaml

from hf_compress import Recipe, compress
from hf_compress.ground.errors import UsageError
from hf_compress.models.origin import publishable_license
from hf_compress.report.card_facts import what_was_done
from hf_compress.training import fitting

SPLITS = {"train": "train[:100]", "validation": "train[300:340]", "test": "train[400:450]"}
SMALL = {"model": "resnet18", "width": 0.125}
CHAIN = {
    "teacher": {"finetune": {"epochs": 1, "learning_rate": 3e-3}},
    "chain": [{"model": "resnet18", "width": 0.25, "image_size": 32}, SMALL, {"model": "mobilenet_v2", "width": 0.1}],
    "data": {"path": "digits", "splits": SPLITS},
    "steps": [{"distill": {"epochs": 1, "learning_rate": 3e-3}}],
    "measure": {"batch_size": 1, "repeats": 3},
}


def test_a_chain_is_a_teacher_assistants_and_a_student():
    recipe = Recipe.from_dict(CHAIN | {"chain": ["resnet50", "some/hub-id", SMALL, "./folder"]})
    assert (recipe.teacher.model, recipe.teacher.finetune.epochs) == ("resnet50", 1)
    assert [(section.model, section.width) for section in recipe.assistants] == [
        ("some/hub-id", 1.0),
        ("resnet18", 0.125),
    ]
    assert recipe.student.model == "./folder"
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


def test_options_of_a_chain_can_be_overridden():
    recipe = Recipe.from_dict(
        CHAIN | {"chain": ["resnet50", "resnet34", "resnet18"]},
        {"chain.0.width": 0.5, "chain.1.model": "resnet50", "chain.2.image_size": 64, "teacher.finetune.epochs": 7},
    )
    assert (recipe.teacher.width, recipe.teacher.finetune.epochs) == (0.5, 7)
    assert recipe.assistants[0].model == "resnet50"
    assert recipe.student.image_size == 64


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"chain": ["resnet50"]}, "'chain' must list two models or more"),
        ({"chain": "resnet50"}, "'chain' must list two models or more"),
        ({"student": "resnet18"}, "leave out 'student' beside it"),
        ({"teacher": "resnet18"}, "leave out 'teacher' beside it"),
        ({"teacher": {"model": "resnet18"}}, "leave out 'teacher' beside it"),
        (
            {"chain": ["resnet50", {"model": "resnet34", "widht": 2}, "resnet18"]},
            "unknown key 'chain.1.widht' (value 2); did you mean 'width'?",
        ),
        ({"chain": ["resnet50", 3, "resnet18"]}, "'chain.1' cannot be 3"),
        ({"chain": ["resnet50", "teacher", "resnet18"]}, "'assistants.0.model' is a copy of the teacher"),
        ({"chain": ["resnet50", "resnet18", "teacher"]}, "'student.model' is a copy of the teacher"),
        ({"steps": ["finetune"]}, "'assistants' learn by the step 'distill': add it to 'steps'"),
    ],
)
def test_what_is_no_chain_is_refused(sections, says):
    with pytest.raises(UsageError) as caught:
        Recipe.from_dict(CHAIN | sections)
    assert says in str(caught.value)


def test_assistants_need_a_teacher_and_classify():
    values = {"assistants": ["resnet18"], "student": "resnet18", "data": "digits"}
    with pytest.raises(UsageError, match=r"add 'teacher\.model'"):
        Recipe.from_dict(values | {"steps": ["finetune"]})
    with pytest.raises(UsageError, match="'assistants' learn to classify"):
        Recipe.from_dict(values | {"task": "features", "teacher": "x/y", "steps": ["distill_features"]})


def test_the_licence_of_an_assistant_counts():
    def hub(name, license):
        return {"id": name, "source": "hub", "revision": None, "license": license, "base_model": name}

    origins = {"teacher": hub("a/teacher", "mit"), "assistants": [hub("b/assistant", "mit")], "student": None}
    assert publishable_license(origins, None) == "mit"
    origins["assistants"].append(hub("c/strict", "cc-by-nd-4.0"))
    with pytest.raises(UsageError, match=r"c/strict is under cc-by-nd-4\.0"):
        publishable_license(origins, None)


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    """A finished chain of three models, and for each training who learned from whom, and what that one said then."""
    seen, train = [], fitting.train
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def spy(model, context, config, teacher=None):
        with torch.no_grad():
            seen.append((model, teacher and teacher.model, teacher and teacher.model(pixel_values=images).logits))
        return train(model, context, config, teacher)

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "train", spy)
        folder = tmp_path_factory.mktemp("chain") / "out"
        run = compress(Recipe.from_dict(CHAIN), folder, log=lines.append)
    return run, seen, images, lines


def test_each_link_learns_from_the_one_before_it_as_it_is_at_its_best(links):
    _, seen, images, _ = links
    (assistant, first_teacher, _), (student, _, answers) = seen
    assert first_teacher.config.hidden_sizes[0] == 2 * assistant.config.hidden_sizes[0]
    assert student.config.model_type == "mobilenet_v2"
    with torch.no_grad():
        torch.testing.assert_close(assistant(pixel_values=images).logits, answers)


def test_each_link_is_a_row(links):
    run, _, _, lines = links
    rows = run.report["rows"]
    assert [(row["stage"], row["model"]) for row in rows] == [
        ("teacher", "resnet18"),
        ("assistant 1", "resnet18"),
        ("student", "mobilenet_v2"),
        ("1 distill", "mobilenet_v2"),
    ]
    parameters = [row["cost"]["parameters"] for row in rows]
    assert parameters[0] > parameters[1] > parameters[2] == parameters[3]
    assert rows[1]["details"]["best_epoch"] in (0, 1)
    assert [origin["id"] for origin in run.report["assistants"]] == ["resnet18"]
    assert "assistant 1 of 1: resnet18, taught by resnet18" in lines
    assert f"| assistant 1 | {what_was_done(rows[1])} |" in (run.folder / "README.md").read_text()


def test_the_run_folder_keeps_the_whole_chain_and_the_last_model(links):
    run, _, _, _ = links
    recipe = Recipe.load(run.folder / "recipe.yaml")
    assert [recipe.teacher.model, recipe.assistants[0].model, recipe.student.model] == [
        "resnet18",
        "resnet18",
        "mobilenet_v2",
    ]
    assert yaml.safe_load(Path(run.folder / "config.json").read_text())["model_type"] == "mobilenet_v2"
