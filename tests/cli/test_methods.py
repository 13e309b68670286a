"""The commands prune and distill: the same run, and the same report, as the recipe way."""

import sys
from typing import Literal

import pytest
import typer
from pydantic import Field

from hf_compress import Recipe, cli, compress, save
from hf_compress.cli import methods
from hf_compress.cli.sections import Group, options_from
from hf_compress.models.students import build_registered
from hf_compress.report.run import Run
from hf_compress.run.recipe import recipe_schema
from hf_compress.sections.base import Section

SPLITS = {"train": "train[:200]", "validation": "train[200:300]", "test": "train[300:400]"}
MEASURE = {"repeats": 3, "batch_size": 2}
FOR_SPEED = ["--set", f"data.splits={SPLITS}", "--set", f"measure={MEASURE}"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=32)
    folder = tmp_path_factory.mktemp("models") / "teacher"
    save(built.model, folder, built.processor)
    return str(folder)


def run_recipe(folder, **sections):
    return compress(Recipe.from_dict({"measure": MEASURE} | sections), folder, log=lambda line: None)


def run_command(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert not stop.value.code


@pytest.mark.parametrize(("arguments", "says"), [
    (["prune", "--pattern", "2:4", "--granularity", "channel"], "--pattern does nothing here: it is of granularity"),
    (["prune", "--pattern", "2:4", "--iterative"], "--iterative does nothing here: a pattern is pruned at once"),
    (["prune", "--pattern", "2:4", "--amount", "0.1"], "--amount does nothing here: the pattern says how much"),
    (["prune", "--no-iterative", "--max-drop", "0.01"], "--max-drop does nothing here: it judges rounds"),
    (["prune", "--no-iterative", "--amount", "0.1", "--target-macs", "0.5"], "--amount does nothing here: the target"),
    (["prune", "--granularity", "block", "--scope", "layer"], "--scope does nothing here: what a block is worth is"),
    (["prune", "--budget", "macs"], "--budget does nothing here: scopes 'cost' and 'damage' divide"),
    (["prune", "--n", "2"], "--n does nothing here: it is the order of importance 'ln', not of 'l1'"),
    (["prune", "--loss", "mse", "--temperature", "2"], "--temperature does nothing here: it is of loss kl and"),
    (["distill", "--loss", "mse", "--ce-weight", "1"], "--ce-weight does nothing here: it is of loss mse_ce"),
    (["distill", "--loss", "kl", "--gamma", "1"], "--gamma does nothing here: it is of loss dist, not of kl"),
])  # fmt: skip
def test_options_that_do_nothing_together_are_refused(arguments, says, tmp_path, capsys):
    command, *options = arguments
    models = ["--student", "resnet18"] if command == "distill" else []
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--teacher", "a/b", *models, "--dataset", "digits", *options, str(tmp_path / "out")])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def run_optimum_cli(monkeypatch, *arguments):
    optimum_cli = pytest.importorskip("optimum.commands.optimum_cli")
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "compress", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        optimum_cli.main()
    assert not stop.value.code


def without_times(report):
    report = {key: value for key, value in report.items() if key not in ("created", "seconds", "remarks")}
    rows = [{key: value for key, value in row.items() if key != "latency"} for row in report["rows"]]
    for row in rows:
        row["cost"] = {key: value for key, value in row["cost"].items() if key != "peak_memory_bytes"}
    measure = {key: value for key, value in report["measure"].items() if key != "other_cores"}
    return report | {"rows": rows, "measure": measure}


def assert_same(first, second):
    assert (first / "recipe.yaml").read_text() == (second / "recipe.yaml").read_text()
    assert without_times(Run.open(first).report) == without_times(Run.open(second).report)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


@pytest.mark.long
def test_prune_is_the_recipe_in_options(tmp_path, teacher, monkeypatch):
    recovery = {"epochs": 1, "learning_rate": 3e-3}
    options = {"importance": "l2", "amount": 0.25, "max_drop": 1.0, "target": {"macs": 0.3}, "recovery": recovery}
    run_recipe(
        tmp_path / "recipe",
        teacher={"model": teacher, "finetune": {"epochs": 1}},
        data={"path": "digits", "splits": SPLITS},
        steps=[{"prune": options}],
        seed=3,
    )
    run_optimum_cli(
        monkeypatch, "prune", "--model", teacher, "--finetune-epochs", 1, "--dataset", "digits", "--importance", "l2",
        "--granularity", "channel", "--amount", 0.25, "--iterative", "--max-drop", 1, "--target-macs", 0.3,
        "--epochs", 1, "--learning-rate", 3e-3, "--seed", 3, *FOR_SPEED, tmp_path / "options",
    )  # fmt: skip
    assert_same(tmp_path / "recipe", tmp_path / "options")


@pytest.mark.long
def test_distill_is_the_recipe_in_options(tmp_path, teacher):
    run_recipe(
        tmp_path / "recipe",
        teacher=teacher,
        student={"model": "mobilenet_v2", "width": 0.25},
        data={"path": "digits", "splits": SPLITS, "augmentation": "light", "mixup": 0.2, "cutmix": 1.0},
        steps=[{"distill": {"loss": "mse_ce", "mse_weight": 2.0, "standardize": True, "epochs": 1}}],
    )
    run_command(
        "distill", "--teacher", teacher, "--student", "mobilenet_v2", "--width", 0.25, "--data", "digits",
        "--augmentation", "light", "--mixup", 0.2, "--cutmix", 1, "--loss", "mse_ce", "--mse-weight", 2,
        "--standardize", "--epochs", 1, *FOR_SPEED, tmp_path / "options",
    )  # fmt: skip
    assert_same(tmp_path / "recipe", tmp_path / "options")


class Unusual(Section):
    """Types that typer does not know."""

    width: int | Literal["auto"] = 8
    shares: dict[str, float] = Field({}, description="By layer.")
    nested: Section | None = None
    maybe: float | None = None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--width", "auto", "--shares", "{a: 0.5}"], {"x.width": "auto", "x.shares": {"a": 0.5}}),
        (["--width", "16", "--maybe", "1"], {"x.width": 16, "x.maybe": 1.0}),
    ],
)
def test_values_that_typer_has_no_type_for_are_yaml(arguments, expected):
    app, got = typer.Typer(), {}

    @app.command()
    @options_from(Group("Unusual", "x", Unusual))
    def command(values: dict):
        got.update(values)

    app(arguments, standalone_mode=False)
    assert got == expected


@pytest.mark.parametrize(
    ("command", "config"), [("prune", "PruneSection"), ("distill", "DistillSection"), ("quantize", "QuantizeSection")]
)
def test_every_plain_key_of_the_step_is_an_option(command, config, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    run_command(command, "--help")
    shown = capsys.readouterr().out
    properties = recipe_schema()["$defs"][config]["properties"]
    for name in properties.keys() - {"target", "recovery", "losses"}:
        assert f"--{name.replace('_', '-')} " in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prune", "--amount", "2"], "'steps.0.prune.amount' cannot be 2.0"),
        (["prune", "--target-macs", "0.5", "--target-sparsity", "0.5"], "exactly one of sparsity, parameters, macs"),
        (["distill", "--student", "mobilnet_v2"], "did you mean 'mobilenet_v2'?"),
        (["prune", "--set", "steps.prune.amuont=1"], "unknown key 'steps.0.prune.amuont'"),
    ],
)
def test_wrong_values_are_one_sentence(arguments, says, tmp_path, teacher, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--model", teacher, "--data", "digits", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["distill --teacher a/b --student resnet18", "prune --model a/b", "quantize --model a/b"]
)
def test_a_control_is_an_option(monkeypatch, command):
    taken = []
    monkeypatch.setattr(methods, "run_recipe", lambda recipe, *_, **options: taken.append(recipe.control))
    for option in ([], ["--control"]):
        run_command(*command.split(), "--data", "digits", "out", *option)
    assert taken == [False, True]
