"""A recipe may be a stranger's: it runs a repository's code, and publishes, only with the user's own word."""

import json
from pathlib import Path

import pytest
import yaml

from hf_compress import Recipe, Study, cli, compress, run_study, save
from hf_compress.ground.errors import UsageError
from hf_compress.models.students import build_registered
from hf_compress.run.permissions import permitted

OWN = """
from pathlib import Path
from transformers import ResNetConfig, ResNetForImageClassification
Path({marker!r}).touch()
class OwnConfig(ResNetConfig):
    model_type = "own-resnet"
class OwnModel(ResNetForImageClassification):
    config_class = OwnConfig
"""
DIGITS = {"path": "digits", "splits": {"train": 0.1, "validation": 0.05, "test": 0.05}}
LEARNT = {"epochs": 1, "learning_rate": 1e-3}
RESNET = {"model": "resnet18", "width": 0.0625, "image_size": 32}
TRUSTED = {"model": "./own", "trust_remote_code": True}
SECTIONS = {
    "teacher": {"teacher": TRUSTED},
    "teacher.ensemble.1": {"teacher": {"ensemble": ["./own", TRUSTED]}},
    "assistants.1": {"teacher": "./own", "assistants": ["./own", TRUSTED]},
    "student": {"student": TRUSTED, "steps": ["finetune"]},
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A model whose repository holds its own code, in the working folder; the code leaves a file behind."""
    monkeypatch.chdir(tmp_path)
    built = build_registered("resnet18", list("0123456789"), width=0.0625, image_size=32)
    save(built.model, tmp_path / "own", built.processor)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnModel"}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config | {"auto_map": names, "model_type": "own-resnet"}))
    marker = tmp_path / "code-ran"
    (tmp_path / "own" / "own.py").write_text(OWN.format(marker=str(marker)))
    return marker


def recipe(**sections):
    values = {"student": RESNET, "data": DIGITS, "steps": [{"distill": LEARNT}], "measure": {"repeats": 3}}
    return values | sections


def error_of(capsys, arguments, program="hf-compress"):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(map(str, arguments)), program=program)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def refusal(call):
    with pytest.raises(UsageError) as caught:
        call()
    return str(caught.value)


def written(values):
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    return "recipe.yaml"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_that_trusts_needs_the_flag(own, capsys, section):
    values = recipe(**SECTIONS[section])
    for error in (
        error_of(capsys, ["run", written(values)]),
        error_of(capsys, ["run", written(values)], "optimum-cli compress"),
        refusal(lambda: compress(Recipe.from_dict(values), "out")),
        refusal(lambda: run_study(Study.from_dict({"runs": {"a": values}}), "out")),
    ):
        assert f"'{section}.trust_remote_code'" in error
        assert "--trust-remote-code" in error
    assert not own.exists(), "no code ran before the user allowed it"
    assert not Path("out").exists() and not Path("runs").exists()


@pytest.mark.parametrize(
    "command", [["prune", "--model", "./own", "--dataset", "digits", "out", "--set", "teacher.trust_remote_code=true"],
                ["distill", "--teacher", "./own", "--student", "resnet18", "--dataset", "digits", "out", "--set",
                 "student={model: ./own, trust_remote_code: true}"]]
)  # fmt: skip
def test_so_does_a_command_of_one_step(own, capsys, command):
    assert "pass --trust-remote-code" in error_of(capsys, command)
    assert not own.exists()


def test_the_flag_reaches_every_model():
    values = recipe(teacher={"ensemble": ["a/b", {"model": "c/d"}]}, assistants=["e/f"], student={"model": "g/h"})
    allowed = permitted(Recipe.from_dict(values), trust_remote_code=True, publish=False)
    models = [*allowed.teacher.ensemble, *allowed.assistants, allowed.student]
    assert [section.trust_remote_code for section in models] == [True] * 4
    alone = permitted(Recipe.from_dict(recipe(steps=["finetune"])), trust_remote_code=True, publish=False)
    assert alone.teacher is None
    assert not alone.student.trust_remote_code, "there is no repository to trust"


@pytest.mark.long
def test_own_code_of_all_models_runs_with_the_flag_and_so_does_a_resumed_run(own, capsys):
    values = recipe(
        teacher={"ensemble": ["./own", "./own"]}, assistants=[{"model": "./own"}], student={"model": "./own"}
    )
    run = ["run", written(values), "--output", "out"]
    assert "contains its own Python code" in error_of(capsys, run)
    cli.app([*run, "--trust-remote-code"], standalone_mode=False)
    assert own.exists()
    kept = Recipe.load("out/recipe.yaml")
    assert kept.student.trust_remote_code and kept.assistants[0].trust_remote_code
    assert "pass --trust-remote-code" in error_of(capsys, ["run", "out/recipe.yaml", "--output", "out", "--resume"])
    cli.app(["run", "out/recipe.yaml", "--output", "out", "--resume", "--trust-remote-code"], standalone_mode=False)
    own.unlink()
    for command in (["evaluate", "out"], ["inspect", "out"], ["export", "out", "--to", "pt2"]):
        assert "pass --trust-remote-code" in error_of(capsys, command)
    assert not own.exists(), "the recipe of a run folder is no permission, either"


PUBLISHING = {"publish": {"to": "someone/model"}}


@pytest.mark.parametrize(
    ("values", "arguments", "says"),
    [
        (recipe(steps=["finetune"], **PUBLISHING), [], "'publish.to' asks to send the result to someone/model"),
        (recipe(steps=["finetune"], **PUBLISHING), ["--publish"], "publishing needs a login"),
        (recipe(steps=["finetune"]), ["--publish"], "--publish needs a section 'publish'"),
        ({"runs": {"a": recipe(steps=["finetune"])}}, ["--publish"], "--publish is for one recipe"),
    ],
)
def test_publishing_needs_its_flag(own, capsys, monkeypatch, values, arguments, says):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert says in error_of(capsys, ["run", written(values), *arguments])
    assert not Path("runs").exists()


def test_optimums_configuration_is_as_little_trusted(own):
    adapter = pytest.importorskip("hf_compress.adapters.optimum")
    config = adapter.CompressionConfig(["distill"], student=TRUSTED, data=DIGITS, **PUBLISHING)
    with pytest.raises(UsageError, match=r"student\.trust_remote_code"):
        adapter.Compressor("./own").compress(config, save_dir="out")
    with pytest.raises(UsageError, match=r"publish\.to"):
        adapter.Compressor("./own", trust_remote_code=True).compress(config, save_dir="out")
    assert not own.exists()
