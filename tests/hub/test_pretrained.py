"""`pretrained: auto`: a checkpoint that fits, from the Hub or the cache, or else one from scratch that says so."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hub_client import ALICE
from transformers import MobileNetV2ImageProcessor

from hf_compress import save
from hf_compress.models.students import build_registered, build_student, find_checkpoint
from hf_compress.sections.models import StudentSection
from hf_compress.tasks.classification import CLASSIFICATION

FITS = "google/mobilenet_v2_0.35_96"
OTHER = "google/mobilenet_v2_0.75_160"
DIGITS = list("0123456789")


@pytest.fixture(scope="module", autouse=True)
def checkpoints(hub, tmp_path_factory):
    """The smallest MobileNetV2 of the Hub, with random weights, and one under a name that promises another width."""
    folder = tmp_path_factory.mktemp("checkpoint")
    built = build_registered("mobilenet_v2", [str(number) for number in range(12)], width=0.35)
    size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    save(built.model, folder, MobileNetV2ImageProcessor(**size))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add(OTHER, files)
    return hub.add(FITS, files | {"README.md": b"---\nlicense: apache-2.0\n---\n"})


def section(width):
    return StudentSection(model="mobilenet_v2", width=width, pretrained="auto", image_size=48)


def show(width):
    """Print what is found, and the student that is built of it."""
    found, sentence = find_checkpoint(section(width), DIGITS, CLASSIFICATION)
    student = build_student(section(width).model_copy(update={"pretrained": found}), DIGITS, None, CLASSIFICATION)
    size = student.processor.crop_size if found else student.processor.size
    print(json.dumps([found, sentence, student.name, student.label_names, dict(size)["height"], student.commit]))


@pytest.mark.parametrize(
    ("width", "says"),
    [
        (0.35, f"mobilenet_v2 begins with the weights of {FITS} (1.7 M parameters, licence other)"),
        (0.75, f"mobilenet_v2 starts from scratch: 'pretrained': {OTHER} is no mobilenet_v2 of width 0.75"),
        (1.4, "mobilenet_v2 starts from scratch: there is no model 'google/mobilenet_v2_1.4_224' on the Hub"),
        (0.5, "mobilenet_v2 starts from scratch: no checkpoint of width 0.5 is known (1, 1.4, 0.75, 0.35 are)"),
    ],
)
def test_the_checkpoint_of_the_width_is_taken_where_it_can_be_had(client, checkpoints, width, says):
    result = client.call(show, width, HF_TOKEN=ALICE)
    found, sentence, name, labels, size, commit = json.loads(result.out)
    assert sentence.startswith(says)
    assert (found, name) == ((FITS, FITS) if width == 0.35 else (False, "mobilenet_v2"))
    assert (labels, size) == (DIGITS, 48)
    assert commit == (checkpoints.resolve("main").oid if found else None)


def test_out_of_reach_a_student_starts_from_scratch():
    """This process is offline, and has nothing in its cache."""
    found, sentence = find_checkpoint(section(0.35), DIGITS, CLASSIFICATION)
    assert found is False
    assert sentence == (
        f"mobilenet_v2 starts from scratch: {FITS} is not cached and the Hub is out of reach: check the network, or "
        "give a local folder"
    )


@pytest.mark.long
def test_offline_the_cached_checkpoint_is_taken(client):
    client.call(show, 0.35, HF_TOKEN=ALICE)
    result = subprocess.run(
        [sys.executable, "-c", "from test_pretrained import show; show(0.35)"],
        env=os.environ
        | client.environment
        | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert json.loads(result.stdout)[0] == FITS, result.stderr


@pytest.mark.long
def test_a_run_names_the_checkpoint_and_its_licence(client, checkpoints, teacher, digits):
    recipe, folder = client.folder / "pretrained.yaml", client.folder / "pretrained"
    student = {"model": "mobilenet_v2", "width": 0.35, "pretrained": "auto"}
    values = {
        "teacher": "alice/teacher",
        "student": student,
        "data": "alice/digits",
        "steps": [{"distill": {"epochs": 1}}],
    }
    recipe.write_text(yaml.safe_dump(values | {"measure": {"batch_size": 2, "repeats": 3}}))
    result = client.cli("run", recipe, "--output", folder, HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    report = json.loads((folder / "report.json").read_text())
    saved = yaml.safe_load((folder / "recipe.yaml").read_text())["student"]
    commit = checkpoints.resolve("main").oid
    assert (saved["model"], saved["pretrained"], saved["revision"]) == ("mobilenet_v2", FITS, commit)
    assert (report["student"]["id"], report["student"]["license"]) == (FITS, "apache-2.0")
    assert any(FITS in remark for remark in report["remarks"])
    again = client.cli("run", recipe, "--output", folder, "--resume", HF_TOKEN=ALICE)
    assert again.code == 0 and "is finished" in again.out + again.err
