"""A real pretrained model and real photos: to the Hub, from it, compressed, published, and back in a new process."""

import json
from pathlib import Path

import pytest
import yaml
from hub_client import ALICE, same_predictions

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = SHARED / "models" / "mobilenet-v2-imagenet"
LEAVES = SHARED / "data" / "apple_leaf"
CARD = b"---\nlicense: apache-2.0\n---\n# MobileNetV2\n"
RECIPE = {
    "teacher": {"model": "alice/mobilenet-v2", "finetune": {"epochs": 1, "layers": "head", "learning_rate": 0.003}},
    "data": "alice/leaves",
    "steps": [{"prune": {"amount": 0.2, "iterative": False, "recovery": {"epochs": 0}}}],
    "measure": {"batch_size": 2, "repeats": 3},
    "publish": {"to": "alice/leaf-classifier"},
}


def upload(name, files, kind):
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(name, repo_type=kind)
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(name, operations, commit_message="Upload", repo_type=kind)


@pytest.mark.long
@pytest.mark.skipif(not LEAVES.is_dir(), reason="the shared models and images are not beside this checkout")
def test_mobilenet_on_apple_leaves(hub, client):
    model = {path.name: path.read_bytes() for path in TEACHER.iterdir()} | {"README.md": CARD}
    photos = {
        str(path.relative_to(LEAVES)): path.read_bytes()
        for split, count in (("train", 8), ("val", 3))
        for folder in sorted((LEAVES / split).iterdir())
        for path in sorted(folder.iterdir())[:count]
    }
    for arguments in (("alice/mobilenet-v2", model, "model"), ("alice/leaves", photos, "dataset")):
        assert client.call(upload, *arguments, HF_TOKEN=ALICE).code == 0
    recipe = client.folder / "leaves.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    result = client.cli("run", recipe, "--publish", "--output", client.folder / "leaves", HF_TOKEN=ALICE)
    assert result.code == 0, result.err[-3000:]
    assert f"published: {hub.url}/alice/leaf-classifier/commit/" in result.err

    report = json.loads(hub.files("alice/leaf-classifier")["report.json"])
    assert report["teacher"]["revision"] == hub.repo("alice/mobilenet-v2").resolve("main").oid
    assert report["data"]["revision"] == hub.repo("alice/leaves", "dataset").resolve("main").oid
    assert len(report["rows"][-1]["classes"]["images"]) == 4
    teacher, pruned = (row["cost"]["macs"] for row in report["rows"])
    assert pruned < 0.8 * teacher
    assert same_predictions(client, client.folder / "leaves", "alice/leaf-classifier")
