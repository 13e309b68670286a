"""`hf-compress students --budget`: an answer without training."""

import json

import pytest

from hf_compress import cli, save
from hf_compress.models.students import STUDENTS, build_registered, students_for

pytestmark = pytest.mark.usefixtures("costs_counted_once")


def students(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["students", *arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def rows(text):
    lines = [line.split() for line in text.splitlines()]
    return {f"{cells[0]} {cells[1]}": cells for cells in lines if cells and cells[0] in STUDENTS}


def test_candidates_with_costs_and_which_fit(capsys):
    code, out, _ = students(capsys, "--budget", "parameters=260000", "--budget", "macs=8e5", "--image-size", "32")
    found = rows(out)
    assert code == 0
    assert {cells[0] for cells in found.values()} == set(students_for())
    assert {name for name, cells in found.items() if cells[-1] == "yes"} == {
        "convnext_atto x0.25",
        "mobilenet_v2 x0.25",
    }
    assert found["mobilenet_v2 x0.25"][2:] == ["250.92", "k", "745.89", "k", "1.08", "MB", "yes"]
    assert f"2 of {len(found)} are within 260.00 k parameters, 800.00 k MACs, at 32 pixels and 10 classes" in out


def test_a_teacher_gives_image_size_classes_and_the_hint(capsys, tmp_path):
    teacher = build_registered("resnet18", ["cat", "dog"], width=0.25, image_size=48)
    save(teacher.model, tmp_path, teacher.processor)
    code, out, _ = students(capsys, "--budget", "latency_ms=100000", "--teacher", str(tmp_path))
    found = rows(out)
    assert code == 0
    assert "at 48 pixels and 2 classes" in out
    assert "less than half of the teacher's parameters" in out
    assert found["mobilenet_v1 x0.25"][-2:] == ["30.4%*", "yes"]
    assert found["resnet18 x0.25"][-2:] == ["100.0%", "yes"]
    assert all("ms" in cells for cells in found.values())


def test_nothing_fits(capsys):
    code, out, err = students(capsys, "--budget", "bytes=1000", "--image-size", "32")
    assert code == 1
    assert {cells[-1] for cells in rows(out).values()} == {"no"}
    assert "the nearest is mobilenet_v1 x0.25 with 0.90 MB" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "latency_ms"], "--budget needs KEY=VALUE, not 'latency_ms'"),
        (["--budget", "macs=0"], "'budget.macs' cannot be 0"),
        (["--budget", "mac=1"], "did you mean 'macs'?"),
        (["--teacher", "some/model"], "need a budget"),
        (["--budget", "macs=1", "--teacher", "./nowhere"], "no model folder './nowhere'"),
    ],
)
def test_what_is_wrong_is_one_sentence(capsys, arguments, says):
    code, _, err = students(capsys, *arguments)
    assert code == 2
    assert says in err


def test_candidates_are_json_if_asked(capsys):
    code, out, _ = students(capsys, "--budget", "parameters=260000", "--image-size", "32", "--json")
    found = json.loads(out)
    assert code == 0
    assert {row["model"] for row in found} == set(STUDENTS)
    assert all(row["fits"] == (row["parameters"] <= 260000) for row in found)


def test_without_options_the_registry_is_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = students(capsys)
    assert code == 0
    assert "parameters, width 1" in out
    assert all(name in out for name in STUDENTS)
    known = [checkpoint.id for name in STUDENTS for checkpoint in STUDENTS.get(name).checkpoints]
    assert all(f" {checkpoint} " in out for checkpoint in known)


def test_the_help_has_examples(capsys):
    _, out, _ = students(capsys, "--help")
    assert "hf-compress students --budget latency_ms=5 --teacher microsoft/resnet-50" in out
