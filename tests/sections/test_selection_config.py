"""What a recipe may say about a student that is selected."""

import json

import pytest

from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe, recipe_schema

AUTO = {"model": "auto", "budget": {"latency_ms": 5}}


def recipe(student, overrides=None, **sections):
    values = {"teacher": "some/model", "student": student, "data": "digits", "steps": ["distill"]} | sections
    return Recipe.from_dict(values, overrides)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ("auto", "needs 'student.budget', for example --set student.budget.latency_ms=5"),
        ({"model": "auto", "budget": {}}, "name at least one of parameters, macs, bytes, latency_ms"),
        ({"model": "auto", "budget": {"macs": 0}}, "'student.budget.macs' cannot be 0"),
        ({"model": "auto", "budget": {"macs": "many"}}, "'student.budget.macs' cannot be 'many'"),
        ({"model": "auto", "budget": {"bytes": float("inf")}}, "'student.budget.bytes' cannot be inf"),
        ({"model": "auto", "budget": {"latency": 5}}, "did you mean 'latency_ms'?"),
        (AUTO | {"width": 0.5}, "'student.width' does not go with 'student.model: auto': leave it at 1.0"),
        (
            AUTO | {"pretrained": "auto"},
            "'student.pretrained' does not go with 'student.model: auto': leave it at True",
        ),
        (AUTO | {"probe": {"images": 0}}, "'student.probe.images' cannot be 0"),
        ({"model": "resnet18", "budget": {"macs": 1}}, "'student.budget' selects a student"),
        ({"model": "resnet18", "probe": {}}, "'student.probe' selects a student"),
    ],
)
def test_an_error_says_what_to_do(student, says):
    with pytest.raises(UsageError) as caught:
        recipe(student)
    assert says in str(caught.value)


def test_a_recipe_that_cannot_be_probed_is_refused():
    with pytest.raises(UsageError, match="no step trains: add 'distill' or 'finetune'"):
        recipe(AUTO, steps=["prune"])
    with pytest.raises(UsageError, match="which 'task: features' does not have"):
        recipe(AUTO, steps=["distill_features"], task="features")


def test_the_short_form_takes_its_budget_from_the_command_line():
    limits = recipe("auto", {"student.budget.macs": "1.5e6", "student.budget.bytes": 2_000_000}).student.budget.limits
    assert limits == {"macs": 1_500_000, "bytes": 2_000_000}


def test_the_schema_describes_budget_and_probe():
    schema = json.loads(json.dumps(recipe_schema()))["$defs"]
    assert set(schema["BudgetSection"]["properties"]) == {"parameters", "macs", "bytes", "latency_ms"}
    assert set(schema["ProbeSection"]["properties"]) == {"candidates", "images", "epochs"}
    assert {"budget", "probe"} <= set(schema["StudentSection"]["properties"])
