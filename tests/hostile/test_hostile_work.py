"""The folder of an unfinished run that was damaged, and what the machine does to a run: one sentence each."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refusal

from hf_compress import Recipe, compress
from hf_compress.data import ImageSplit
from hf_compress.ground.errors import RunError
from hf_compress.ground.machine import in_one_sentence

RECIPE = {
    "student": {"model": "resnet18", "width": 0.0625, "image_size": 32, "pretrained": "auto"},  # a value that is kept
    "data": {"path": "digits", "splits": {"train": 0.1, "validation": 0.05, "test": 0.05}},
    "steps": [{"finetune": {"epochs": 1}}, {"finetune": {"epochs": 2}}],
    "measure": {"batch_size": 1, "repeats": 3},
}
DONE = "units/1-finetune"
WORK = "units/.work-2-finetune/part-1"


class Stop(Exception):
    pass


def recipe():
    return Recipe.from_dict(RECIPE)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that stopped in the second epoch of its second step."""
    folder = tmp_path_factory.mktemp("interrupted")
    epochs = itertools.count()

    def log(line):
        if line.strip().startswith("epoch") and next(epochs) == 2:
            raise Stop

    with pytest.raises(Stop):
        compress(recipe(), folder / "out", log=log)
    return folder


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(b"\xff{garbage")


def other_values(file: Path) -> None:
    file.write_text("{}")


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def missing(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


CHECKPOINT = f"{WORK}/checkpoints/checkpoint-*"
FILES = {
    f"{DONE}/model/model.safetensors": (truncated, garbage, one_bit, missing),
    f"{DONE}/model/config.json": (garbage, other_values, missing),
    f"{DONE}/step.json": (garbage, other_values, truncated, missing),
    f"{DONE}/model": (missing,),
    "units/student.pretrained/value.json": (garbage, other_values, one_bit, missing),
    "units/.sums-1-finetune.json": (garbage, missing),
    f"{CHECKPOINT}/model.safetensors": (truncated, missing),
    f"{CHECKPOINT}/trainer_state.json": (garbage, missing),
    f"{CHECKPOINT}/optimizer.pt": (truncated, garbage),
    CHECKPOINT: (missing,),
}
CASES = [(file, damage) for file, kinds in FILES.items() for damage in kinds]


@pytest.mark.parametrize(("file", "damage"), CASES, ids=[f"{damage.__name__}-{file}" for file, damage in CASES])
def test_damaged_work_is_named_and_not_gone_on_with(file, damage, interrupted, fenced):
    shutil.copytree(interrupted, fenced / "run")
    partial = fenced / "run" / "out.partial"
    (place,) = partial.glob(file)
    damage(place)
    sentence = refusal(lambda: compress(recipe(), fenced / "run" / "out", resume=True, log=lambda line: None))
    assert "damaged" in sentence
    assert "remove '" in sentence
    assert place.name.removeprefix(".sums-").removesuffix(".json") in sentence or "checkpoint" in sentence
    assert (partial / "units" / "student.pretrained").is_dir(), "what is whole is kept"


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("damage", [garbage, other_values, truncated, missing])
def test_without_its_proof_nothing_counts_as_an_unfinished_run(damage, options, interrupted, fenced):
    shutil.copytree(interrupted, fenced / "run")
    partial = fenced / "run" / "out.partial"
    damage(partial / "begun.json")
    sentence = refusal(lambda: compress(recipe(), fenced / "run" / "out", log=lambda line: None, **options))
    assert "begun.json' is missing or was damaged" in sentence
    assert (partial / "units" / "student.pretrained").is_dir()


def test_the_advice_helps(interrupted, fenced):
    """What is removed is done again, to the same result; --overwrite does not look at what was there."""
    shutil.copytree(interrupted, fenced / "run")
    out, weights = fenced / "run" / "out", f"out.partial/{DONE}/model/model.safetensors"
    truncated(fenced / "run" / weights)

    def log(line):
        if line.startswith("step 2"):
            raise Stop

    sentence = refusal(lambda: compress(recipe(), out, resume=True, log=log))
    shutil.rmtree(sentence.partition("remove '")[2].partition("'")[0])
    with pytest.raises(Stop):
        compress(recipe(), out, resume=True, log=log)
    assert (fenced / "run" / weights).read_bytes() == (interrupted / weights).read_bytes()
    truncated(fenced / "run" / weights)
    with pytest.raises(Stop):
        compress(recipe(), out, overwrite=True, log=log)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "memory runs out"),
        (OSError(12, "Cannot allocate memory"), "memory runs out"),
        (RuntimeError("can't start new thread"), "memory runs out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"), "memory runs out"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a process that decodes images died"),
        (BrokenPipeError(32, "Broken pipe"), "a closed pipe"),
    ],
)
def test_what_the_machine_does_is_one_sentence_with_its_notes(error, says):
    error.add_note("kept")
    with pytest.raises(RunError, match=says) as caught, in_one_sentence():
        raise error
    assert caught.value.__notes__ == ["kept"]


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a bug"), in_one_sentence():
        raise RuntimeError("a bug")


def test_a_worker_that_is_killed_is_one_sentence(fenced, monkeypatch):
    monkeypatch.setattr(ImageSplit, "__getitems__", lambda self, indices: os.kill(os.getpid(), signal.SIGKILL))
    values = RECIPE | {"data": RECIPE["data"] | {"workers": 1}}
    says = refusal(lambda: compress(Recipe.from_dict(values), "out", log=str))
    assert "a process that decodes images died" in says


def test_a_closed_pipe_is_one_sentence():
    """Whoever reads has gone before the first line is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "hf_compress", "schema"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: the output cannot be written: whoever read it has stopped")
