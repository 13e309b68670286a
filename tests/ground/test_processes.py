"""Two processes on one machine, over gloo: as one process does it, and none left waiting for the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from two_processes import CHECKED, MESSAGE, RECIPE

from hf_compress.cli import main
from hf_compress.ground.errors import UsageError
from hf_compress.models.load import load
from hf_compress.tools.evaluation import evaluate_folder

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
ACCELERATE += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]


def launched(launcher, *command, folder):
    """Run a command in two processes and return what came of it; what hangs ends the test."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", *launcher, *command]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module")
def failed(folder):
    script = Path(__file__).parents[1] / "two_processes.py"
    return launched(TORCHRUN, str(script), str(folder), folder=folder)


@pytest.fixture(scope="module")
def resumed(folder, failed):
    return launched(ACCELERATE, "-m", "hf_compress", "run", "recipe.yaml", "--output=made", "--resume", folder=folder)


@pytest.mark.long
def test_the_processes_agree_on_predictions_units_and_pruning(failed):
    assert failed.stdout.count(CHECKED) == 2, failed.stderr


@pytest.mark.long
def test_a_process_that_fails_ends_the_launch_and_says_why(failed, folder):
    assert failed.returncode != 0
    assert f"error in process 1: {MESSAGE}" in failed.stderr
    assert (folder / "made.partial").is_dir()
    assert not (folder / "made").exists()


@pytest.mark.long
def test_the_run_goes_on_after_that_and_is_written_once(resumed, folder):
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("going on with 'made'; done: teacher") == 1
    assert resumed.stdout.count("model, recipe and report: made") == 1
    assert {place.name for place in folder.iterdir()} == {"recipe.yaml", "made", "units", "decisions"}
    report = json.loads((folder / "made" / "report.json").read_text())
    assert report["environment"]["processes"] == 2
    distilled, channels, weights = report["rows"][-3:]
    assert [row["epoch"] for row in distilled["details"]["epochs"]] == [1, 2]
    assert channels["cost"]["parameters"] < distilled["cost"]["parameters"]
    assert weights["details"]["rounds"][0]["sparsity"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.long
def test_the_figures_are_those_that_one_process_finds(resumed, folder):
    row = json.loads((folder / "made" / "report.json").read_text())["rows"][-1]
    alone = evaluate_folder(str(folder / "made"), None, "test")
    assert alone["split"]["images"] == sum(row["classes"]["images"]) == 251
    assert row["quality"] == pytest.approx(alone["quality"], abs=1e-9)
    assert all(weight.isfinite().all() for weight in load(folder / "made").model.parameters())


def test_an_unfinished_run_of_two_processes_is_not_for_one(tmp_path):
    """The steps of an epoch would be others."""
    from hf_compress import Recipe
    from hf_compress.run.folder import RunFolder

    recipe = Recipe.from_dict(RECIPE)
    with pytest.raises(RuntimeError), RunFolder(tmp_path / "run", recipe) as begun:
        begun.units.value("something", lambda: 1)
        begun._begun["environment"]["processes"] = 2
        begun._write_begun()
        raise RuntimeError
    with pytest.raises(UsageError, match="begun with 2 processes, which are 1 now"):
        RunFolder(tmp_path / "run", recipe, resume=True).__enter__()


@pytest.mark.parametrize("flag", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_divides_models_is_refused(flag, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(flag, "true")
    with pytest.raises(SystemExit) as stopped:
        main(["run", "quickstart", "--output", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "divides a model's weights among processes" in capsys.readouterr().err


def test_other_commands_take_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        main(["students"])
    assert stopped.value.code == 2
    assert "start 'students' without accelerate launch" in capsys.readouterr().err


def test_memory_that_runs_out_in_one_of_several_processes_stops_all(monkeypatch):
    from hf_compress.ground import processes
    from hf_compress.ground.errors import CompressError, RunError
    from hf_compress.ground.memory import in_fitting_batches

    def too_large(batch_size):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(CompressError, match="memory runs out with 8 images in process 0") as stopped:
        in_fitting_batches(too_large, 8)
    assert not isinstance(stopped.value, RunError)
