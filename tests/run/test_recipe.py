"""Recipes: what is accepted, and what the error says otherwise."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from hf_compress.ground.errors import UsageError
from hf_compress.ground.progress import LIBRARIES
from hf_compress.ground.registry import Registry
from hf_compress.run.recipe import Recipe, model_overrides, recipe_schema
from hf_compress.sections.measure import MeasureSection
from hf_compress.sections.values import is_study, read_recipe, shipped_recipes, with_data, with_model

VALUES = {"teacher": "some/model", "data": "digits", "steps": [{"distill": {"epochs": 3}}, "prune"]}


def test_commands_and_recipe_import_neither_torch_nor_what_quiet_has_to_come_before():
    code = (
        "import sys, hf_compress.cli\n"
        f"hf_compress.Recipe.from_dict({VALUES!r})\n"
        f"print({{'torch', *{sorted(LIBRARIES)}}} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("data.pth", 1, "unknown key 'data.pth' (value 1); did you mean 'path'?"),
        ("techer", 1, "unknown key 'techer' (value 1); did you mean 'teacher'?"),
        ("steps.prune.amount", 1.5, "'steps.1.prune.amount' cannot be 1.5"),
        ("steps.0.distill.loss", "mze", "'steps.0.distill.loss' cannot be 'mze'"),
        ("steps.prune.importance", "l22", "did you mean 'l2'?"),
        (
            "steps.prune.granularity",
            "chanel",
            "granularity' cannot be 'chanel'; did you mean 'channel'?",
        ),
        ("steps.prune.target", {"macs": 0.5, "sparsity": 0.5}, "name exactly one"),
        ("steps.prune", {"granularity": "weight", "target": {"macs": 0.5}}, "zeroed weights do not change macs"),
        ("data.splits.trian", "a", "unknown key 'data.splits.trian' (value 'a'); did you mean 'train'?"),
        ("steps.1", {"prun": {}}, "unknown step 'prun'; did you mean 'prune'?"),
        ("teacher", None, "learns from a teacher"),
        (
            "data.unlabelled",
            "./more",
            "'data.unlabelled' cannot be './more': it is a list, also of one thing: put brackets",
        ),
        ("deploy", {"to": "onnx"}, "it is a list, also of one thing: put brackets"),
    ],
)
def test_an_error_names_the_key_the_value_and_the_nearest(key, value, says):
    values = VALUES | {"student": "resnet18"}
    with pytest.raises(UsageError) as caught:
        Recipe.from_dict(values, {key: value})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_by_number_and_by_step_name():
    recipe = Recipe.from_dict(VALUES, {"steps.0.distill.epochs": 7, "steps.prune.recovery.loss": "kl", "seed": 3})
    assert recipe.steps[0]["distill"].epochs == 7
    assert recipe.steps[1]["prune"].recovery.loss == "kl"
    assert recipe.seed == 3
    assert VALUES["steps"][0]["distill"]["epochs"] == 3


def test_overrides_reach_into_what_a_string_stands_for():
    values = VALUES | {"deploy": ["onnx"], "data": {"path": "digits", "unlabelled": ["./more"]}}
    recipe = Recipe.from_dict(values, {"deploy.0.int8": True, "data.unlabelled.0.split": "train"})
    assert (recipe.deploy[0].to, recipe.deploy[0].int8) == ("onnx", True)
    assert (recipe.data.unlabelled[0].path, recipe.data.unlabelled[0].split) == ("./more", "train")


def test_a_folder_may_have_an_at_sign_in_its_path(tmp_path):
    folder = tmp_path / "jo@corp.com" / "teacher"
    folder.mkdir(parents=True)
    named = {"model": str(folder)}
    assert with_model({}, "teacher", str(folder))[0] == {"teacher": named}
    assert model_overrides("teacher", str(folder)) == {"teacher.model": str(folder)}
    assert model_overrides("teacher", "a/b@main") == {"teacher.model": "a/b", "teacher.revision": "main"}


def test_yaml_round_trip():
    recipe = Recipe.from_dict(VALUES)
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system ['true']"])
def test_what_is_not_plain_yaml_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="not valid YAML"):
        Recipe.load(path)


def test_shipped_recipes_are_valid():
    assert {"quickstart", "prune-iterative-l1", "prune-weights-l1", "distill-mse", "distill-mse-ce"} <= set(
        shipped_recipes()
    )
    for name in shipped_recipes():
        assert is_study(read_recipe(name)) or Recipe.load(name).steps


def test_the_schema_has_a_string_wherever_one_stands_for_a_section():
    schema = json.loads(json.dumps(recipe_schema()))
    own, parts = schema["properties"], schema["$defs"]
    places = [own["teacher"], own["student"], own["data"], own["chain"]["prefixItems"][0]]
    places += [place["items"] for place in (own["assistants"], own["deploy"], own["chain"])]
    places.append(parts["EnsembleSection"]["properties"]["ensemble"]["items"])
    places.append(parts["DataSection"]["properties"]["unlabelled"]["items"])
    assert all({"type": "string"} in place["anyOf"] for place in places)
    assert all(any("$ref" in option for option in place["anyOf"]) for place in places)


def test_schema_describes_every_step():
    schema = json.loads(json.dumps(recipe_schema()))
    names = {name for item in schema["properties"]["steps"]["items"]["oneOf"] for name in item["properties"]}
    assert names == {"distill", "distill_features", "finetune", "prune", "quantize", "rewrite"}
    for reference in ("DistillSection", "PruneSection"):
        assert schema["$defs"][reference]["additionalProperties"] is False


def test_a_registry_refuses_a_clash_and_capitals():
    registry = Registry("colour", "nobody.registers.here")
    registry.register("red")(1)
    with pytest.raises(ValueError, match="already registered"):
        registry.register("red")(2)
    with pytest.raises(ValueError, match="lower-case"):
        registry.register("Blue")
    with pytest.raises(UsageError, match="unknown colour 'rde'; did you mean 'red'"):
        registry.get("rde")


QUICKSTART = {"teacher": {"model": "resnet18", "width": 0.5, "finetune": {"epochs": 3}}, "student": "resnet18"}


@pytest.mark.parametrize(
    ("section", "name", "expected", "without"),
    [
        ("teacher", "a/b@main", {"model": "a/b", "revision": "main", "finetune": {"epochs": 3}}, ["width"]),
        ("teacher", "resnet18", QUICKSTART["teacher"], []),
        ("student", "a/b", {"model": "a/b"}, []),
    ],
)
def test_another_model_comes_without_what_belonged_to_the_recipes_own(section, name, expected, without):
    values, dropped = with_model(QUICKSTART, section, name)
    assert (values[section], dropped) == (expected, without)
    assert values["teacher"] == QUICKSTART["teacher"] or section == "teacher"
    assert QUICKSTART["teacher"]["width"] == 0.5


def test_another_data_set_comes_without_the_commit_and_the_configuration_of_the_recipes_own():
    values = VALUES | {
        "data": {"path": "a/b", "revision": "0" * 40, "name": "small", "views": 4, "label_column": "kind"}
    }
    found, dropped = with_data(values, "./photos")
    assert found["data"] == {"path": "./photos", "views": 4, "label_column": "kind"} and dropped == [
        "revision",
        "name",
    ]
    assert with_data(values, "a/b") == (values, [])
    assert with_data(VALUES, "./photos") == (VALUES | {"data": {"path": "./photos"}}, [])
    assert values["data"]["revision"] == "0" * 40


def test_another_model_takes_the_end_of_a_chain():
    values, dropped = with_model({"chain": ["a/b", {"model": "resnet18", "width": 0.5}]}, "student", "c/d")
    assert (values["chain"], dropped) == (["a/b", {"model": "c/d"}], ["width"])


def test_null_is_a_key_that_is_left_out_unless_it_is_a_value():
    unset = ("teacher.width", "measure", "steps.finetune.epochs", "steps.finetune.max_grad_norm")
    recipe = Recipe.from_dict({"teacher": "resnet18", "data": "digits", "steps": ["finetune"]}, dict.fromkeys(unset))
    assert recipe.teacher.width == 1
    assert recipe.measure == MeasureSection()
    assert recipe.steps[0]["finetune"].epochs == 20
    assert recipe.steps[0]["finetune"].max_grad_norm == 0


def test_an_error_repeats_no_whole_section():
    recovery = {"optimizer": "sgd", "epochs": 5, "batch_size": 16, "weight_decay": 5e-4, "precision": "bf16"}
    with pytest.raises(UsageError, match=r"^'steps.0.prune.recovery': with optimizer sgd"):
        Recipe.from_dict({"teacher": "a/b", "data": "digits", "steps": [{"prune": {"recovery": recovery}}]})


def test_a_width_belongs_to_registered_architectures():
    with pytest.raises(UsageError, match=r"'teacher.width' is of the registered architectures"):
        Recipe.from_dict({"teacher": {"model": "a/b", "width": 0.5}, "data": "digits", "steps": ["finetune"]})


@pytest.mark.parametrize(("step", "says"), [
    ({"prune": {"iterative": False, "max_drop": 0.05}}, "max_drop does nothing here: it judges rounds"),
    ({"prune": {"granularity": "n:m", "floor": 0.2}}, "floor does nothing here: the pattern says how much"),
    *(
        ({"prune": {"granularity": kind, "round_to": 4}}, "round_to does nothing here: widths are pruned by")
        for kind in ("weight", "block", "n:m")
    ),
    ({"prune": {"iterative": False, "amount": 0.5, "target": {"macs": 0.3}}}, "amount does nothing here: the target"),
    ({"prune": {"pattern": "1:4", "amount": 0.5}}, "amount does nothing here: the pattern says how much goes"),
    ({"prune": {"n": 3}}, "n does nothing here: it is the order of importance 'ln', not of 'l1'"),
    ({"prune": {"importance": "obs", "n": 3}}, "it is the order of importance 'ln', not of 'obs'"),
    ({"prune": {"recovery": {"loss": "ce", "temperature": 3}}}, "temperature does nothing here: it is of loss kl and"),
    ({"distill": {"loss": "kl", "ce_weight": 0.5}}, "ce_weight does nothing here: it is of loss mse_ce and kl_ce"),
    ({"distill": {"losses": [{"loss": "mse", "beta": 2}]}}, "beta does nothing here: it is of loss dkd and dist"),
])  # fmt: skip
def test_options_that_do_nothing_together_are_refused_unless_they_are_defaults(step, says):
    values = {"teacher": "a/b", "student": "resnet18", "data": "digits"}
    with pytest.raises(UsageError, match=re.escape(says)):
        Recipe.from_dict(values | {"steps": [step]})
    [name] = step
    defaults = Recipe.from_dict(values | {"steps": [name]}).steps[0][name].model_dump()
    Recipe.from_dict(values | {"steps": [{name: defaults}]})


@pytest.mark.parametrize(
    ("options", "granularity"),
    [({"pattern": "1:4"}, "n:m"), ({}, "channel"), ({"pattern": "2:4", "granularity": "weight"}, "weight")],
)
def test_a_pattern_is_of_n_of_m(options, granularity):
    recipe = Recipe.from_dict({"teacher": "a/b", "data": "digits", "steps": [{"prune": options}]})
    assert recipe.steps[0]["prune"].granularity == granularity
    assert Recipe.from_dict(recipe.model_dump()).steps[0]["prune"].granularity == granularity
