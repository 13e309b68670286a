"""The commands of README and docs that train nothing and send nothing do what they say, on a run folder in small."""

import pytest
from documented import on_pages
from PIL import Image
from sklearn.datasets import load_digits

from hf_compress import Recipe, cli, compress

SMALL = {
    "teacher": {
        "model": "resnet18",
        "width": 0.25,
        "image_size": 32,
        "finetune": {"epochs": 3, "learning_rate": 3e-3},
    },
    "student.width": 0.125,
    "data.splits": {"train": "train[:200]", "validation": "train[200:240]", "test": "train[240:280]"},
    "steps.distill.epochs": 1,
    "steps.prune.iterative": False,
    "steps.prune.amount": None,
    "steps.prune.max_drop": None,
    "steps.prune.recovery.epochs": 1,
    "measure": {"batch_size": 2, "repeats": 3},
}
CHEAP = {"evaluate", "inspect", "export", "benchmark", "predict", "card", "cards", "schema", "publish"}
SAID = [" ".join(command).replace("runs/phone", "runs/quickstart") for command in on_pages() if command[0] in CHEAP]
COMMANDS = [said.split() for said in dict.fromkeys(SAID) if not said.startswith("publish") or "--dry-run" in said]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos, a picture, and the run folder of the pages."""
    folder = tmp_path_factory.mktemp("place")
    compress(Recipe.load("quickstart", SMALL), folder / "runs" / "quickstart", log=lambda line: None)
    digits = load_digits()
    for number in range(12):
        photo = folder / "photos" / str(digits.target[number]) / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(photo)
    Image.open(photo).save(folder / "photo.jpg")
    return folder


@pytest.mark.long
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_command_runs(arguments, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert not stop.value.code, err
    assert out.strip()
