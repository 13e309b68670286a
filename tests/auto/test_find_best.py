"""A search from beginning to end, on digits: what it leaves, and that an interruption changes nothing."""

import json
import re
from dataclasses import replace

import pytest
import torch
import yaml

from hf_compress import Recipe, cli, save
from hf_compress.adapters.optimum import Compressor
from hf_compress.auto import running, students
from hf_compress.auto.request import Request
from hf_compress.auto.running import find_best
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.measure.cost import cost
from hf_compress.models.load import load
from hf_compress.models.students import STUDENTS, Checkpoint, build_registered
from hf_compress.report.gallery import write_gallery
from hf_compress.report.run import Run

SPLITS = {"train": "train[:200]", "validation": "train[200:300]", "test": "train[300:400]"}
MEASURE = {"repeats": 3, "batch_size": 2}
OVERRIDES = {"data.splits": SPLITS, "measure": MEASURE}
SPACE = {"macs": [0.0, 0.5], "importance": ["l1"], "blocks": [0.0], "image_size": [1.0], "int8": [False]}
SPACE |= {"width": [1.0], "students": []}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    folder = tmp_path_factory.mktemp("models") / "teacher"
    save(built.model, folder, built.processor)
    return str(folder)


TOO_LARGE = {"model": "resnet18", "width": 0.125}


def request(teacher, minutes=5, **changes):
    given = {"wish": {"parameters": 150_000}, "runtime": "pt2", "space": SPACE, "overrides": OVERRIDES}
    return Request.of(teacher, "digits", **given | {"minutes": minutes, "candidates": 2} | changes)


def without_times(report):
    times = ("latency_ms", "teacher_ms")
    return [{key: value for key, value in each.items() if key not in times} for each in report["search"]["points"]]


@pytest.mark.parametrize("named", [[], pytest.param([TOO_LARGE], marks=pytest.mark.long)], ids=["", "student"])
def test_it_is_killed_goes_on_and_leaves_a_run_with_its_front(teacher, tmp_path, monkeypatch, named):
    monkeypatch.setattr(running, "FINALISTS", 0)
    lines, space = [], SPACE | {"students": named}

    def killed(line):
        lines.append(line)
        if line.startswith("candidate 1"):
            with pytest.raises(UsageError, match="is being made by another process: wait for it"):
                find_best(request(teacher, space=space), tmp_path / "found", resume=True, log=lines.append)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        find_best(request(teacher, space=space), tmp_path / "found", log=killed)
    with pytest.raises(RunError, match="the wishes are not those with which"):
        find_best(
            request(teacher, wish={"parameters": 140_000}, space=space),
            tmp_path / "found",
            resume=True,
            log=lines.append,
        )
    run = find_best(request(teacher, space=space), tmp_path / "found", resume=True, log=lines.append)
    found = run.report["search"]
    said = ["as it is", "50% of the MACs pruned by l1", *(["resnet18 x0.125, trained briefly"] if named else [])]
    assert [point["what"] for point in found["points"]] == said
    assert found["options"]["scope"] == ["cost", "damage"]
    whole, half, *brief = found["points"]
    for student in brief:
        assert student["brief"] and not student["trained"] and student["parameters"] == whole["parameters"]
    assert half["winner"] and half["front"] and not whole["winner"]
    assert half["parameters"] <= 150_000 < whole["parameters"] and half["latency_ms"] > 0
    row = run.report["deployed"][0]
    assert abs(row["cost"]["bytes"] - half["bytes"]) < 1000 and run.report["rows"][-1]["cost"]["macs"] == half["macs"]
    recipe = Recipe.load(run.folder / "front" / "01.yaml")
    assert recipe.to_yaml() == (run.folder / "recipe.yaml").read_text()
    card = (run.folder / "README.md").read_text()
    assert "## How it was found" in card and "figures/front.png" in card and "| 01, chosen |" in card
    assert (run.folder / "figures" / "front.png").is_file()
    write_gallery(str(tmp_path), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        "digits: what found was chosen from" in page
        and f"{len(said)} candidates on" in page
        and "100 validation images" in page
    )
    assert '<a href="found/front/01.yaml">01, chosen</a><small>recipe</small>' in page
    again = {"runtime": "pt2", "space": space, "minutes": 5, "candidates": 2, "overrides": OVERRIDES}
    same = Compressor(teacher).auto({"parameters": 150_000}, "digits", run.folder, resume=True, **again)
    assert same.report == run.report
    with pytest.raises(UsageError, match="of another recipe: it comes from another search"):
        find_best(request(teacher, minutes=6, space=space), run.folder, resume=True, log=lines.append)


@pytest.mark.long
def test_what_is_left_of_the_limits_is_used(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "FINALISTS", 0)
    macs = cost(load(teacher).model, torch.zeros(1, 3, 16, 16))["macs"]
    space = SPACE | {"macs": [share / 10 for share in range(9)]}
    asked = request(teacher, wish={"macs": 0.62 * macs}, space=space, candidates=5)
    *proposed, step = find_best(asked, tmp_path / "found", log=lambda line: None).report["search"]["points"]
    pruned = "{}% of the MACs pruned by l1"
    assert [point["what"] for point in proposed] == ["as it is", *map(pruned.format, (40, 10, 60))]
    within = {share: proposed[place] for share, place in ((40, 1), (60, 3))}
    best = max(within, key=lambda share: (within[share]["quality"], share))  # of equals the cheaper one
    assert step["what"] == pruned.format(best - 10)


def test_when_the_search_is_over_steps_lead_within_the_limits_and_a_resumed_one_takes_the_same_way(
    teacher, tmp_path, monkeypatch
):
    """A search would begin with 50 %; what the limit needs of the whole model at once is 80 %."""
    monkeypatch.setattr(running, "FINALISTS", 0)
    own = cost(load(teacher).model, torch.zeros(1, 3, 16, 16))["parameters"]
    asked = request(
        teacher, wish={"parameters": 0.45 * own}, space=SPACE | {"macs": [0.0, 0.2, 0.5, 0.8]}, candidates=4
    )

    def killed(line):
        if line.startswith("candidate 1"):
            raise RuntimeError("killed")

    with monkeypatch.context() as late:
        late.setattr(running.Search, "_minutes_left", 3.4)  # of five 32 % are over
        with pytest.raises(RuntimeError, match="killed"):
            find_best(asked, tmp_path / "found", log=killed)
    points = find_best(asked, tmp_path / "found", resume=True, log=lambda line: None).report["search"]["points"]
    assert [point["what"] for point in points[:2]] == ["as it is", "80% of the MACs pruned by l1"]


@pytest.mark.long
def test_a_wish_that_nothing_meets_names_the_nearest(teacher, tmp_path):
    wish = {"parameters": 5000}
    with pytest.raises(RunError, match=r"^no candidate is at most 5.00 k parameters: the nearest is 50% of the MACs"):
        find_best(request(teacher, wish=wish), tmp_path / "none", log=lambda line: None)


def test_the_minutes_end_a_search_in_which_nothing_keeps_the_wish_yet(teacher, tmp_path):
    lines = []
    with pytest.raises(RunError) as ended:
        find_best(request(teacher, 0.001, wish={"parameters": 5000}), tmp_path / "none", log=lines.append)
    assert str(ended.value).startswith(
        "in 0.001 minutes no candidate was found that is at most 5.00 k parameters: of 1 the nearest is as it is"
    )
    assert not any(line.startswith("candidate") for line in lines)
    assert not hasattr(ended.value, "__notes__")  # to go on with --resume would change nothing


@pytest.mark.long
def test_an_only_finalist_gets_all_the_time_and_a_candidate_is_timed_once(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "EPOCHS", 2)
    lines, wish = [], {"parameters": 150_000, "latency_ms": 1000}
    points = find_best(request(teacher, wish=wish), tmp_path / "found", log=lines.append).report["search"]["points"]
    (said,) = (line for line in lines if line.startswith("training candidate"))
    assert float(re.match(r"training candidate 1 for ([\d.]+) minutes", said)[1]) > 4
    _, untrained, trained = points
    assert trained["trained"] and not untrained["trained"]
    assert [trained[key] for key in ("latency_ms", "teacher_ms")] == [
        untrained[key] for key in ("latency_ms", "teacher_ms")
    ]


@pytest.mark.long
def test_interrupted_it_finishes_the_best_so_far(teacher, tmp_path):
    def stop(line):
        if line.startswith("candidate 1"):
            raise KeyboardInterrupt

    run = find_best(request(teacher, 5), tmp_path / "found", log=stop)
    assert [point["winner"] for point in run.report["search"]["points"]] == [False, True]
    assert not any(point["trained"] for point in run.report["search"]["points"])


@pytest.mark.long
def test_interrupted_before_any_candidate_it_finishes_the_model_as_it_is(teacher, tmp_path):
    def stop(line):
        if line.startswith("search:"):
            raise KeyboardInterrupt

    run = find_best(request(teacher, 5, wish={"max_drop": 0.1}), tmp_path / "found", log=stop)
    (point,) = run.report["search"]["points"]
    assert point["winner"] and point["what"] == "as it is"
    assert "figures/front.png" not in (run.folder / "README.md").read_text()


@pytest.mark.long
def test_the_command_searches_trains_and_two_of_one_seed_are_alike(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "EPOCHS", 5)
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE | {"macs": [0.0, 0.5], "width": [1.0, 0.5], "image_size": [1.0, 0.5]}))
    reports = []
    for name in ("first", "second"):
        arguments = ["auto", teacher, "--data", "digits", "--parameters", "150000", "--runtime", "onnx"]
        arguments += ["--minutes", "60", "--candidates", "4", "--space", space, "--output", tmp_path / name]
        arguments += ["--set", f"data.splits={json.dumps(SPLITS)}", "--set", f"measure={json.dumps(MEASURE)}"]
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        assert not stop.value.code
        reports.append(Run.open(tmp_path / name).report)
    first, second = (without_times(report) for report in reports)
    keys = ("what", "trained", "quality", "parameters", "macs", "bytes", "front", "winner")
    assert [[point[key] for key in keys] for point in first] == [[point[key] for key in keys] for point in second]
    assert len([point for point in first if not point["trained"]]) > 2 and any(point["trained"] for point in first)
    assert reports[0]["search"]["prediction"]["trained"] >= 1
    trained = [point for point in reports[0]["search"]["points"] if point["trained"] and point["front"]]
    for point in trained:
        steps = Recipe.load(tmp_path / "first" / "front" / f"{point['name']}.yaml").step_names
        assert steps[-1] == "distill"
    assert re.search(r"\| \d\d, chosen \|", (tmp_path / "first" / "README.md").read_text())


@pytest.mark.long
def test_registered_students_with_a_checkpoint_compete_and_are_trained_anew(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(running, "EPOCHS", 40)
    monkeypatch.setattr(students, "IMAGES", 60)
    labels = [str(digit) for digit in range(10)]
    folders = {width: str(tmp_path / f"{width}") for width in (0.5, 0.25)}
    for width, folder in folders.items():
        built = build_registered("resnet18", labels, width=width, image_size=16)
        save(built.model, folder, built.processor)
    known = replace(STUDENTS.get("resnet18"), checkpoints=(Checkpoint(folders[0.25], 0.7, "mit", width=0.25),))
    monkeypatch.setattr(STUDENTS, "_entries", {"resnet18": known, "resnet34": STUDENTS.get("resnet34")})
    space = {key: value for key, value in SPACE.items() if key != "students"} | {"macs": [0.0]}
    wish, few = {"parameters": 1e6, "latency_ms": 1000}, OVERRIDES | {"data.splits": SPLITS | {"train": "train[:60]"}}
    asked = request(folders[0.5], minutes=60, wish=wish, space=space, runtime="onnx", overrides=few)
    lines = []
    run = find_best(asked, tmp_path / "found", log=lines.append)
    points = run.report["search"]["points"]
    kinds = [(point["brief"], point["trained"]) for point in points]
    assert kinds == [(False, False), (True, False), (False, True)], lines
    assert points[2]["winner"] and points[2]["lost"] < points[1]["lost"], "40 epochs of labels after one"
    assert run.report["search"]["prediction_of_students"]["trained"] == 1
    student = Recipe.load(run.folder / "recipe.yaml").student
    assert (student.model, student.width, student.pretrained, student.image_size) == (
        "resnet18",
        0.25,
        folders[0.25],
        16,
    )
    assert any(line.startswith("student: resnet18 x0.25 can begin with the weights of") for line in lines)
