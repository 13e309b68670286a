"""Trackers: what trainings log is there, too, under names that tell run folder and step, and nowhere else."""

import contextlib
import io
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest

from hf_compress import Recipe, Study, compress, run_study
from hf_compress.data import load_data
from hf_compress.ground import manifest
from hf_compress.ground.errors import UsageError
from hf_compress.models.students import build_registered
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.tracking import Tracking

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}
TRAINING = {"epochs": 2, "learning_rate": 3e-3}
RECOVERY = {"epochs": 1, "learning_rate": 1e-3}
PRUNE = {"amount": 0.25, "iterative": False, "round_to": 1, "repair": "none", "calibration": 16, "recovery": RECOVERY}
SPLITS = {"train": "train[:64]", "validation": "train[300:340]", "test": "train[400:460]"}
SECTIONS = {
    "teacher": {**TINY, "finetune": {**TRAINING, "epochs": 1}},
    "student": TINY,
    "data": {"path": "digits", "splits": SPLITS},
    "measure": {"batch_size": 1, "repeats": 3},
    "steps": [{"distill": TRAINING}, {"prune": PRUNE}],
    "control": True,
}
TRAININGS = ["1-distill", "2-prune/round-1", "control-1-distill", "control-2-prune/round-1", "teacher"]


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """Trackio with a store of its own; it reads where that lies when it is imported."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield pytest.importorskip("trackio")


def logged(trackio, name):
    """Return what Trackio has kept: the values of each metric of a run, in order."""
    found = trackio.SQLiteStorage.get_logs("hf-compress", name)
    return {key: [row[key] for row in found if key in row] for row in found for key in row}


def events(folder):
    """Return the runs that TensorBoard finds in a folder, each with its values of a metric in order."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    found = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        run = accumulator(str(file)).Reload()
        for tag in run.Tags()["scalars"]:
            values = found.setdefault(file.parent.relative_to(folder).as_posix(), {}).setdefault(tag, [])
            values += [event.value for event in run.Scalars(tag)]
    return found


@pytest.fixture(scope="module")
def context():
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    processor = build_registered("resnet18", data.label_names, width=0.125, image_size=16).processor
    return Context(data, processor, None, 0, Path("unused"), resumable=True)


def trained(context, tracker, folder, place, **training):
    """Train a tiny model whose work lies at `place`; return the details, what was said, and what was printed."""
    lines, printed = [], io.StringIO()
    following = Tracking(tracker, "small", "then", folder / "units", folder / "beside")
    own = replace(context, work_folder=folder / "units" / place, tracking=following, log=lines.append)
    model = build_registered("resnet18", context.data.label_names, width=0.125, image_size=16).model
    with contextlib.redirect_stdout(printed):
        details = train(model, own, TrainingConfig(**TRAINING, **training))
    return details, lines, printed.getvalue()


def test_a_training_is_a_run_in_trackio_which_holds_what_the_report_tells(context, trackio, tmp_path):
    for place in (".work-1-distill", ".work-2-prune/part-1/.work-round-1"):
        details, lines, printed = trained(context, "trackio", tmp_path, place)
        assert not printed and sum("Created new run: small/" in line for line in lines) == 1
    names = {run.name for run in trackio.Api().runs("hf-compress")}
    assert {"small/1-distill/then", "small/2-prune/round-1/then"} <= names
    found = logged(trackio, "small/2-prune/round-1/then")
    assert found["train/loss"] == [epoch["training_loss"] for epoch in details["epochs"]]
    assert found["eval/accuracy"] == [epoch["validation_accuracy"] for epoch in (details["began"], *details["epochs"])]


def test_tensorboard_reads_what_the_report_tells_without_the_trial_of_the_minutes(context, tmp_path):
    details, lines, _ = trained(context, "tensorboard", tmp_path, ".work-1-finetune", minutes=1)
    found = events(tmp_path / "beside")
    assert list(found) == ["1-finetune/then"] and f"  tensorboard --logdir {tmp_path / 'beside'}" in lines
    assert found["1-finetune/then"]["train/loss"] == pytest.approx(
        [epoch["training_loss"] for epoch in details["epochs"]]
    )
    assert not list((tmp_path / "units").rglob("events*"))


def test_files_lie_beside_the_run_or_beside_its_study(tmp_path):
    alone = Tracking.of("tensorboard", tmp_path / "small", "then", tmp_path)
    assert (alone.name, alone.files) == ("small", tmp_path / "small.tensorboard")
    with manifest.adding(tmp_path / "study", "study", ["first-seed-0"]):
        pass
    one = Tracking.of("tensorboard", tmp_path / "study" / "first-seed-0", "then", tmp_path)
    assert one.name == "study/first-seed-0"
    assert one.files == tmp_path / "study.tensorboard" / "first-seed-0"


@pytest.mark.long
def test_every_training_of_a_run_is_tracked_and_its_recipe_names_no_tracker(trackio, tmp_path):
    printed, recipe = io.StringIO(), Recipe.from_dict(SECTIONS | {"track": "trackio"})
    with contextlib.redirect_stdout(printed):
        run = compress(recipe, tmp_path / "whole", log=lambda line: None)
    names = sorted(run.name for run in trackio.Api().runs("hf-compress") if run.name.startswith("whole/"))
    (began,) = {name.rpartition("/")[2] for name in names}
    assert names == [f"whole/{name}/{began}" for name in TRAININGS]
    assert not printed.getvalue() and "track" not in (run.folder / "recipe.yaml").read_text()


@pytest.mark.long
def test_tracking_goes_on_under_one_name_whatever_interrupts_the_run(tmp_path):
    def interrupt(line):
        if line.startswith("step 2"):
            raise KeyboardInterrupt

    recipe = Recipe.from_dict(SECTIONS | {"track": "tensorboard", "control": False})
    with pytest.raises(KeyboardInterrupt):
        compress(recipe, tmp_path / "small", log=interrupt)
    run = compress(recipe, tmp_path / "small", resume=True, log=lambda line: None)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["small", "small.tensorboard"]
    found = events(tmp_path / "small.tensorboard")
    (began,) = {name.rpartition("/")[2] for name in found}
    assert sorted(found) == [f"{name}/{began}" for name in TRAININGS if not name.startswith("control")]
    untracked = Recipe.from_dict(SECTIONS | {"control": False})
    assert compress(untracked, tmp_path / "small", resume=True, log=lambda line: None).report == run.report


@pytest.mark.long
def test_a_study_that_is_tracked_is_replaced_as_ever(tmp_path):
    steps = [{"finetune": TRAINING}]
    shared = {key: SECTIONS[key] for key in ("data", "measure")} | {"student": TINY, "steps": steps}
    study = Study.from_dict(shared | {"track": "tensorboard", "runs": {"plain": {}}})
    for overwrite in (False, True):
        run_study(study, tmp_path / "study", overwrite=overwrite, log=lambda line: None)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["study", "study.tensorboard"]
    found = [name.split("/") for name in events(tmp_path / "study.tensorboard")]
    assert [(run, step) for run, step, _ in found] == [("plain-seed-0", "1-finetune")] * 2


@pytest.mark.skipif(util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_package_is_told_with_the_command_that_installs_it(tmp_path, monkeypatch):
    recipe = Recipe.from_dict(SECTIONS | {"track": "wandb", "data": "./missing"})
    study = Study.from_dict(
        {key: SECTIONS[key] for key in ("data", "steps", "teacher", "student")}
        | {"runs": {"first": {}, "second": {"track": "wandb"}}}
    )
    (tmp_path / "path" / "wandb").mkdir(parents=True)  # wandb itself leaves such a folder, which Python could import
    monkeypatch.syspath_prepend(tmp_path / "path")
    for begin in (lambda: compress(recipe, tmp_path / "out"), lambda: run_study(study, tmp_path / "out")):
        with pytest.raises(UsageError, match=r"needs wandb, which is not installed: pip install wandb$"):
            begin()
    assert not (tmp_path / "out").exists()


def test_a_tracker_is_one_that_is_known():
    with pytest.raises(UsageError, match="'track' cannot be 'trakio'; did you mean 'trackio'"):
        Recipe.from_dict(SECTIONS | {"track": "trakio"})
