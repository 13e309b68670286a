"""The commands at the top of the shipped recipes do what they say: each is run, on tiny models and a few pictures."""

import json
from itertools import pairwise

import cache_of_hub
import numpy as np
import pytest
from documented import in_headers
from PIL import Image

from hf_compress import cli
from hf_compress.cli.options import assignments
from hf_compress.sections.values import overridden, read_recipe

FEWER = {
    "epochs": 1,
    "compile": False,  # needs a compiler and a minute
    "workers": 0,
    "candidates": 2,
    "image_size": 32,
    "precision": "fp32",  # bf16 is slow on most CPUs
}
PHOTOS = {"FOLDER_OR_ID", "./imagenette", "./leaves", "uoft-cs/cifar10"}
SPLITS = "data.splits={train: 0.6, validation: 0.2, test: 0.2}"
LEAVES = ("resnet50", "resnet18", "resnet18-mse", "resnet18-mse-ce", "mobilenet-chain", "mobilenet-mse", "mobilenet")
ALSO = {
    "auto-student": [
        "student.budget={parameters: 2.5e5, latency_ms: 1000}"
    ],  # few are measured, however busy the machine
    "distilled-cifar10": ["data.path=photos", "seeds=[0]", "runs.few-1.data.labelled=0.5"],
    "distilled-imagenette": [SPLITS, "seeds=[0]", "runs.few-5.data.labelled=0.4", "runs.few-10.data.labelled=0.5"],
    "distilled-leaves": ["seeds=[0]", "runs.few-10.data.labelled=0.5"],
    "distill-unlabelled": ["data.splits={train: 0.05, validation: 0.02, test: 0.03}", "data.labelled=0.5"],
    "leaf-disease-table": ["seeds=[0]", *(f"runs.{name}.student.width=0.125" for name in LEAVES)],
    "prune-iterative-l1": ["steps.prune.amount=0.5"],  # few rounds
}
READ = (  # what differs from others by numbers: test_documented.py reads them
    "steps.distill.epochs=170",
    "steps.prune.round_to=1",
    "steps.prune.target.macs=0.608",
    "training.warmup=0.05",
)
COMMANDS = [command for command in in_headers() if command[0] == "run" and not " ".join(command).endswith(READ)]


def draw(folder):
    """Write pictures of three classes, which differ in colour."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(cache_of_hub.CLASSES):
        (folder / name).mkdir(parents=True)
        for picture in range(12):
            pixels = generator.integers(0, 120, (40, 40, 3))
            pixels[..., number] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{picture}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos and a model of their classes; and the Hub's cache."""
    folder = tmp_path_factory.mktemp("place")
    draw(folder / "photos")
    cache_of_hub.saved(cache_of_hub.registered("resnet18", 0.25, cache_of_hub.CLASSES), folder / "runs" / "finetune")
    models = cache_of_hub.fill()
    yield folder
    cache_of_hub.empty(models)


def smaller(values, path=""):
    """Yield KEY=VALUE that make the work of plain values small, wherever they lie."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            yield from smaller(value, f"{path}{key}.")
        elif key in FEWER:
            yield f"{path}{key}={json.dumps(FEWER[key])}"


def in_small(arguments):
    """Return what a command says and --set that make it small."""
    stands_in = {"--teacher": "runs/finetune", "--data": "photos"}
    words = [stands_in.get(before, word) if word in PHOTOS else word for before, word in pairwise(["", *arguments])]
    said = [word for before, word in pairwise(words) if before == "--set"]
    own = overridden(read_recipe(words[1]), assignments(said))
    fewer = [*smaller(own), *ALSO.get(words[1], []), "measure={batch_size: 2, repeats: 3}"]
    if words[1] != "finetune":  # one of them deploys what all of them deploy
        fewer.append("deploy=[]")
    sets = [word for each in fewer for word in ("--set", each)]
    return [*words, *sets, "--output", f"out/{words[1]}", "--overwrite"]


@pytest.mark.long
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_command_runs(arguments, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as stop:
        cli.main(in_small(arguments))
    out, err = capsys.readouterr()
    assert not stop.value.code, err
    assert f"out/{arguments[1]}" in out
    assert json.loads((place / "out" / arguments[1] / "report.json").read_text())["rows"]
