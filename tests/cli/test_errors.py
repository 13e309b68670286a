"""What goes wrong is one clear sentence, exit code 2 (usage) or 1 (run), and leaves no run folder."""

import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from hf_compress import cli

TINY = {
    "teacher.width": 0.125,
    "teacher.finetune.epochs": 1,
    "student.width": 0.125,
    "data.splits": "{train: 'train[:200]', validation: 'train[200:300]', test: 'train[300:400]'}",
    "steps.distill.epochs": 1,
    "measure.repeats": 3,
}


def quickstart(**values):
    """The arguments of a small run; `__` stands for the dot in a key."""
    values = TINY | {key.replace("__", "."): value for key, value in values.items()}
    return ["run", "quickstart", *(word for key, value in values.items() for word in ("--set", f"{key}={value}"))]


@pytest.fixture
def photos(tmp_path):
    for name, blue in (("cat", 0), ("dog", 255)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(15):
            Image.new("RGB", (16, 16), (number, 0, blue)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Run the command line and return (exit code, last line of standard error); nothing may be written."""

    def run(*arguments):
        if arguments[0] == "run":
            arguments = [*arguments, "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["hf-compress", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert not (tmp_path / "out" / "report.json").exists()
        return stop.value.code, sentence

    return run


@pytest.mark.parametrize("role", ["validation", "test"])
def test_held_out_images_without_labels_are_refused_before_any_training(role, photos, fails):
    photos.rename(photos.with_name("train"))
    folder = photos / role
    folder.mkdir(parents=True)
    photos.with_name("train").rename(photos / "train")
    for number in range(5):
        Image.new("RGB", (16, 16), (0, 255, number)).save(folder / f"{number}.png")
    splits = f"{{{role}: {role}}}"
    code, sentence = fails(*quickstart(data__path=photos, data__splits=splits, data__labelled=1))
    assert code == 2
    assert f"'data.splits.{role}': no image of split {role} (without labels) has a label" in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (quickstart(data__pth="x"), "unknown key 'data.pth' (value 'x'); did you mean 'path'?"),
        (quickstart(steps__prune__amount=1.5), "'steps.1.prune.amount' cannot be 1.5"),
        (quickstart(steps__prune__importance="l11"), "unknown importance 'l11'; did you mean 'l1'?"),
        (["run", "quickstrat"], "did you mean 'quickstart'?"),
        (["run", "distill-mse", "--data", "./nowhere"], "there is no folder './nowhere'"),
        (["run", "distill-mse", "--data", "digits", "--teacher", "./nowhere"], "no model folder './nowhere'"),
        (["run", "distill-mse", "--data", "digits", "--teacher", "not an id/at all"], "check the id"),
        (["run", "quickstart", "--set", "amount"], "--set needs KEY=VALUE"),
        (["evaluate", "./nowhere", "--data", "digits"], "no model folder './nowhere'"),
    ],
)
def test_wrong_usage(arguments, says, fails):
    code, sentence = fails(*arguments)
    assert code == 2
    assert says in sentence


def test_an_output_folder_that_holds_a_run_or_something_else(tmp_path, fails):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert fails(*quickstart(), "--overwrite") == (
        2,
        f"error: output '{tmp_path / 'out'}' exists and is not a run folder: it holds 'thesis.tex'; choose another "
        "--output",
    )
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_labels_that_are_not_the_teachers(tmp_path, photos, fails):
    from hf_compress import save
    from hf_compress.models.students import build_registered

    teacher = build_registered("resnet18", ["ant", "bee", "cow"], width=0.125, image_size=32)
    save(teacher.model, tmp_path / "teacher", teacher.processor)
    code, sentence = fails("run", "distill-mse", "--data", str(photos), "--teacher", str(tmp_path / "teacher"),
                           "--set", "teacher.finetune=null")  # fmt: skip
    assert code == 1
    assert "(ant, bee, cow) are not those of the data (cat, dog): add 'teacher.finetune'" in sentence


def test_an_empty_class(photos, fails):
    for picture in (photos / "dog").iterdir():
        picture.unlink()
    code, sentence = fails("run", "distill-mse", "--data", str(photos))
    assert code == 2
    assert "dog' is empty: add images or remove the folder" in sentence


def test_a_corrupt_image_when_the_recipe_says_stop(photos, fails):
    (photos / "cat" / "0.png").write_bytes(b"no picture")
    code, sentence = fails("run", "distill-mse", "--data", str(photos), "--set", "data.on_corrupt=stop")
    assert code == 1
    assert "1 corrupt images" in sentence
    assert "0.png" in sentence


def test_a_loss_that_is_not_finite(fails):
    code, sentence = fails(*quickstart(teacher__finetune__learning_rate=1e30, teacher__finetune__optimizer="sgd"))
    assert code == 1
    assert "training loss became" in sentence
    assert "lower 'learning_rate'" in sentence


def test_ctrl_c_leaves_a_message_and_no_half_written_folder(tmp_path):
    arguments = quickstart(teacher__finetune__epochs=500)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "hf_compress", *arguments, "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("epoch 2 of" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 130
    assert f"interrupted: '{tmp_path / 'out'}' was not written" in errors
    assert f"kept in '{tmp_path / 'out.partial'}': the same command with --resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
