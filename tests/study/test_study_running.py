"""A whole small study on real digits: interrupted, taken up again, and what it leaves."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_compress import Study, cli, run_study
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.manifest import MANIFEST
from hf_compress.report.gallery import write_gallery
from hf_compress.report.run import Run
from hf_compress.study import page, running

VALUES = {
    "data": {"path": "digits", "splits": {"train": 0.1, "validation": 0.05, "test": 0.05}},
    "image_size": 32,
    "training": {"epochs": 1, "learning_rate": 3e-3},
    "measure": {"batch_size": 1, "repeats": 3},
    "seeds": [0, 1],
    "runs": {
        "small": {
            "label": "small <- *big*",
            "teacher": {"run": "big"},
            "student": {"model": "resnet18", "width": 0.0625},
            "steps": ["distill"],
        },
        "big": {"student": {"model": "resnet18", "width": 0.125}, "steps": ["finetune"]},
    },
}
JOBS = [("big", 0), ("small", 0), ("big", 1), ("small", 1)]


def study(overrides=None):
    return Study.from_dict(VALUES, overrides)


def files(folder):
    """Bytes and time of every file in the run folders."""
    paths = [path for run in sorted(folder.glob("*-seed-*")) for path in sorted(run.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


class Stop(Exception):
    pass


def stopping_at(text, lines):
    """Return a log that stops the study at the line that begins with `text`."""

    def log(line):
        lines.append(line)
        if line.startswith(text):
            raise Stop

    return log


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A study that is interrupted within its third run, and then taken up again."""
    folder = tmp_path_factory.mktemp("study") / "out"
    first, second, third = [], [], []

    def in_the_third_run(line):
        first.append(line)
        if line.startswith("step 1") and sum(entry.startswith("run ") for entry in first) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study(), folder, log=in_the_third_run)
    halfway = {"files": files(folder), "page": (folder / "README.md").read_text(), "report": Run.open(folder).report}
    run_study(study(), folder, resume=True, log=second.append)
    complete = files(folder)
    report = run_study(study(), folder, resume=True, log=third.append)
    return {
        "folder": folder,
        "halfway": halfway,
        "lines": (first, second, third),
        "complete": complete,
        "report": report,
    }


def test_an_interrupted_study_shows_what_it_has(story):
    halfway = story["halfway"]
    assert {row["run"]: row["seeds"] for row in halfway["report"]["rows"]} == {"small": [0], "big": [0]}
    assert all(row["quality"]["accuracy"]["std"] is None for row in halfway["report"]["rows"])
    assert "latency" not in halfway["report"]["rows"][0]
    assert "So far 2 of 4 runs are finished." in halfway["page"]
    assert {path.parts[0] for path in halfway["files"]} >= {"big-seed-0", "small-seed-0"}


def test_finished_runs_are_kept_and_the_interrupted_one_is_made_again(story):
    halfway, complete = story["halfway"]["files"], story["complete"]
    finished = {path: kept for path, kept in halfway.items() if path.parts[0] in ("big-seed-0", "small-seed-0")}
    assert len(finished) > 10
    assert all(complete[path] == kept for path, kept in finished.items())
    folders = {path.parts[0] for path in complete}
    assert folders == {"big-seed-0", "small-seed-0", "big-seed-1", "small-seed-1"}
    assert Path("big-seed-1/report.json") not in halfway
    _, second, _ = story["lines"]
    runs = [line for line in second if line.startswith("run ")]
    assert [line.endswith("finished earlier") for line in runs] == [True, True, False, False]


def test_progress_tells_which_run_of_how_many_and_how_long_it_takes(story):
    first, second, _ = story["lines"]
    assert first[0] == "run 1 of 4: big, seed 0"
    assert any(line.startswith("run 3 of 4: big, seed 1 (") and line.endswith(" left)") for line in second)
    seconds = {("big", 0): 60.0, ("small", 0): 600.0}
    reports = {job: {"seconds": value} for job, value in seconds.items()}
    left = [("big", 1), ("small", 1), ("other", 1)]
    assert running._progress(running.time.monotonic(), left, reports) == " (0 s so far, about 16 min left)"


def test_a_finished_study_stays_as_it_is(story):
    assert files(story["folder"]) == story["complete"]
    assert all(line.endswith("finished earlier") for line in story["lines"][2])
    assert Run.open(story["folder"]).report == story["report"]


def test_rows_are_mean_and_deviation_of_the_runs(story):
    report, folder = story["report"], story["folder"]
    assert [row["run"] for row in report["rows"]] == ["small", "big"]
    for row in report["rows"]:
        last = [Run.open(folder / f"{row['run']}-seed-{seed}").report["rows"][-1] for seed in (0, 1)]
        for key in ("accuracy", "roc_auc"):
            a, b = (entry["quality"][key] for entry in last)
            assert row["quality"][key]["values"] == [a, b]
            assert row["quality"][key]["mean"] == pytest.approx((a + b) / 2)
            assert row["quality"][key]["std"] == pytest.approx(abs(a - b) / math.sqrt(2))
        for key in ("parameters", "macs"):
            assert row["cost"][key] == last[0]["cost"][key] == last[1]["cost"][key]
        assert row["latency"]["batch_1"]["p50_ms"] > 0
    assert report["rows"][0]["cost"]["parameters"] < report["rows"][1]["cost"]["parameters"]


def test_the_tables_say_the_same(story):
    folder, rows = story["folder"], story["report"]["rows"]
    small = rows[0]["quality"]["accuracy"]
    first = (folder / "table.md").read_text().splitlines()[2]
    assert first.startswith(f"| small &#60;- &#42;big&#42; | {small['mean']:.4f} ± {small['std']:.4f} |")
    with open(folder / "table.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["small", "big"]
    for row, expected in zip(table, rows, strict=True):
        assert float(row["roc_auc_mean"]) == expected["quality"]["roc_auc"]["mean"]
        assert int(row["parameters"]) == expected["cost"]["parameters"]
        assert float(row["latency_batch_1_p50_ms"]) == expected["latency"]["batch_1"]["p50_ms"]
    page = (folder / "README.md").read_text()
    assert (folder / "table.md").read_text() in page
    assert "So far" not in page
    for name, seed in JOBS:
        assert f"]({name}-seed-{seed}) | {seed} |" in page


def test_the_teacher_of_a_run_is_the_other_runs_model_of_the_same_seed(story):
    reports = {job: Run.open(story["folder"] / f"{job[0]}-seed-{job[1]}").report for job in JOBS}
    for seed in (0, 1):
        teacher, big = reports["small", seed]["rows"][0], reports["big", seed]["rows"][-1]
        assert teacher["stage"] == "teacher"
        assert teacher["classes"] == big["classes"]
        for seen, expected in zip(teacher["reliability"]["bins"], big["reliability"]["bins"], strict=True):
            assert seen == pytest.approx(expected, abs=1e-5)
    assert reports["small", 0]["rows"][0]["quality"] != reports["small", 1]["rows"][0]["quality"]


def test_a_seed_divides_the_images_alike_for_all_its_runs(story):
    from hf_compress import Recipe
    from hf_compress.data import load_data

    def test_images(name, seed):
        recipe = Recipe.load(story["folder"] / f"{name}-seed-{seed}" / "recipe.yaml")
        return [picture["bytes"] for picture in load_data(recipe.data, recipe.seed).test.pictures["image"]]

    assert test_images("small", 1) == test_images("big", 1) != test_images("big", 0)


def test_every_run_folder_is_a_model(story):
    model = AutoModelForImageClassification.from_pretrained(story["folder"] / "small-seed-1")
    assert sum(p.numel() for p in model.parameters()) == story["report"]["rows"][0]["cost"]["parameters"]


def test_the_figure_shows_every_run_with_its_parameters_mean_and_deviation(story):
    shown = page.quality_figure(story["report"])
    accuracy, roc_auc = shown.axes
    assert (accuracy.get_xlabel(), roc_auc.get_xlabel()) == ("accuracy", "ROC AUC")
    assert [label.get_text().splitlines()[0] for label in accuracy.get_yticklabels()] == ["small <- *big*", "big"]
    assert all(label.get_text().endswith(" k parameters") for label in accuracy.get_yticklabels())
    for index, row in enumerate(story["report"]["rows"]):
        seeds, mean = accuracy.lines[4 * index], accuracy.lines[4 * index + 1]
        assert list(seeds.get_xdata()) == row["quality"]["accuracy"]["values"]
        assert list(mean.get_xdata()) == [row["quality"]["accuracy"]["mean"]]
        (segment,) = accuracy.collections[index].get_segments()
        width = segment[1][0] - segment[0][0]
        assert width == pytest.approx(2 * row["quality"]["accuracy"]["std"])
    assert (story["folder"] / "figures" / "quality.png").stat().st_size > 1000


def test_the_gallery_shows_the_runs_of_a_study(story, tmp_path, caplog):
    assert write_gallery(str(story["folder"]), tmp_path / "cards.html") == 4
    assert not caplog.messages


@pytest.fixture
def copied(story, tmp_path):
    """The finished study, moved elsewhere."""
    return Path(shutil.copytree(story["folder"], tmp_path / "moved"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            {"training.epochs": 2},
            r"'big' of seed 0 is finished .* 'steps\.0\.finetune\.epochs' was 1 and is 2:",
        ),
        ({"runs.small.student.width": 0.125}, r"'small' of seed 0 .* 'student\.width' was 0\.0625 and is 0\.125"),
        ({"runs.small.teacher": "some/model"}, r"'small' of seed 0 .* 'teacher\.model' was .*big-seed-0"),
        ({"seeds": [0]}, "'big' of seed 1 is finished .* the study lacks it now"),
    ],
)
def test_a_finished_run_with_another_recipe_is_refused_and_nothing_changes(copied, overrides, says):
    before = files(copied), (copied / "study.yaml").read_text()
    with pytest.raises(UsageError, match=says):
        run_study(study(overrides), copied, resume=True, log=lambda line: None)
    assert (files(copied), (copied / "study.yaml").read_text()) == before


def test_runs_and_seeds_may_be_added(copied):
    lines = []
    extra = Study.from_dict(
        VALUES
        | {"seeds": [0, 1, 2], "runs": VALUES["runs"] | {"extra": {"student": "resnet18", "steps": ["finetune"]}}}
    )
    with pytest.raises(Stop):
        run_study(extra, copied, resume=True, log=stopping_at("run 3 of 9: extra, seed 0", lines))
    assert [line for line in lines if line.endswith("finished earlier")] == [
        f"run {number} of 9: {label}, seed 0: finished earlier"
        for number, label in ((1, "big"), (2, "small <- *big*"))
    ]


def test_a_run_whose_teacher_is_gone_is_made_again(copied):
    shutil.rmtree(copied / "big-seed-0")
    assert set(running._finished(study(), copied, trusted=False)) == {("big", 1), ("small", 1)}


def test_finished_runs_stay_where_the_file_of_the_study_was_moved_away(story):
    file = story["folder"] / "study.yaml"
    away = file.rename(file.with_name("away.yaml"))
    try:
        assert set(running._finished(study(), story["folder"], trusted=False)) == set(JOBS)
        with pytest.raises(UsageError, match=r"'big' of seed 0 .* 'steps\.0\.finetune\.epochs' was 1 and is 2"):
            running._finished(study({"training.epochs": 2}), story["folder"], trusted=False)
    finally:
        away.rename(file)


def test_where_a_study_may_be_written(tmp_path, copied):
    for options, says in (({}, "pass --resume to go on"), ({"overwrite": True, "resume": True}, "exclude each other")):
        with pytest.raises(UsageError, match=says):
            run_study(study(), copied, log=print, **options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"is not a study: it holds 'thesis\.tex'"):
        run_study(study(), tmp_path / "other", overwrite=True)
    with pytest.raises(Stop):
        run_study(study(), copied, overwrite=True, log=stopping_at("run 1 of 4: big, seed 0", []))
    assert {path.name for path in copied.iterdir()} == {"study.yaml", MANIFEST}


def test_a_run_that_fails_is_named(tmp_path):
    wrong = study({"runs.big.steps.finetune.learning_rate": 1e30, "runs.big.steps.finetune.optimizer": "sgd"})
    with pytest.raises(RunError, match=r"^run 'big', seed 0: the training loss became .*--resume"):
        run_study(wrong, tmp_path / "out", log=lambda line: None)


@pytest.mark.parametrize(("section", "runs"), [("student", "small, big"), ("teacher", "small")])
def test_one_model_for_runs_that_name_their_own_is_refused(section, runs, tmp_path, capsys):
    (tmp_path / "my-study.yaml").write_text(json.dumps(VALUES))
    assert command("run", tmp_path / "my-study.yaml", f"--{section}", "resnet34") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{runs} have their own; --set runs.small.{section}=... changes one" in said


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return stop.value.code


def test_the_command_run_takes_a_study_and_goes_on_with_it(story, copied, tmp_path, capsys):
    file = tmp_path / "my-study.yaml"
    file.write_text(json.dumps(VALUES))
    assert not command("run", file, "--output", copied, "--resume")
    printed = capsys.readouterr()
    assert "run 4 of 4: small <- *big*, seed 1: finished earlier" in printed.err
    assert f"table, figure and runs: {copied}" in printed.out
    assert files(copied).keys() == story["complete"].keys()
    assert command("run", file, "--output", copied) == 2
    assert "--resume to go on" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(copied, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "compress", interrupted)
    shutil.rmtree(copied / "small-seed-1")
    file = tmp_path / "my-study.yaml"
    file.write_text(json.dumps(VALUES))
    assert command("run", file, "--output", copied, "--resume") == 130
    assert f"table are in '{copied}'; the same command with --resume goes on" in capsys.readouterr().err


def test_the_schema_command_knows_studies(capsys):
    assert not command("schema", "--study")
    assert "StudyRun" in json.loads(capsys.readouterr().out)["$defs"]
