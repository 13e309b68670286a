"""One loopback Hub, one user's machine, and one compressed model for all tests of this folder."""

import io
import json
import shutil

import datasets
import pytest
import yaml
from hub_client import ALICE, BOB, Client
from hub_server import Hub
from PIL import Image
from sklearn.datasets import load_digits

from hf_compress import save
from hf_compress.models.students import build_registered

CARD = b"---\nlicense: apache-2.0\n---\n# A teacher\n"
RECIPE = {
    "teacher": "alice/teacher",
    "data": "alice/digits",
    "steps": [{"prune": {"amount": 0.25, "iterative": False, "recovery": {"epochs": 1, "learning_rate": 0.001}}}],
    "measure": {"batch_size": 2, "repeats": 3},
}


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    with Hub(tmp_path_factory.mktemp("hub") / "objects", {ALICE: "alice", BOB: "bob"}, part_size=200_000) as hub:
        yield hub
    assert hub.leaks == [], "the access token went to another host"


@pytest.fixture(scope="session")
def client(hub, tmp_path_factory):
    return Client(tmp_path_factory.mktemp("client"), hub.url)


def folder_files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def teacher(hub, tmp_path_factory):
    """A small model with random weights, licensed, on the Hub."""
    folder = tmp_path_factory.mktemp("teacher")
    built = build_registered("resnet18", list("0123456789"), width=0.125, image_size=32)
    save(built.model, folder, built.processor)
    return hub.add("alice/teacher", folder_files(folder) | {"README.md": CARD})


@pytest.fixture(scope="session")
def digits(hub):
    source = load_digits()
    pictures = [Image.fromarray((image * 15).astype("uint8")) for image in source.images[:200]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": source.target[:200]}, features=features)
    parquet = io.BytesIO()
    rows.to_parquet(parquet)
    return hub.add("alice/digits", {"data/train-00000-of-00001.parquet": parquet.getvalue()}, kind="dataset")


@pytest.fixture(scope="session")
def run_folder(hub, client, teacher, digits):
    """What `hf-compress run` makes of a teacher and images that are on the Hub."""
    recipe = client.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    folder = client.folder / "run"
    result = client.cli("run", recipe, "--teacher", "alice/teacher@main", "--output", folder, HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def copied(run_folder, tmp_path):
    """A copy of the run folder, and its report for changing."""
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)

    def change(**values):
        report = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps(report | values))

    return folder, change
