"""Segmentation from the Hub and to it: masks in parquet files, a run that publishes, and a pipeline of that."""

import io
import json

import datasets
import numpy as np
import pytest
import yaml
from hub_client import ALICE
from PIL import Image
from shapes import NAMES, drawn, saved_segmenter

FAST = {"epochs": 4, "batch_size": 6, "learning_rate": 0.01}
RECIPE = {
    "task": "segmentation",
    "teacher": "alice/segmenter",
    "student": "teacher",
    "data": "alice/shapes",
    "steps": [{"finetune": FAST}, {"prune": {"amount": 0.3, "iterative": False, "recovery": {"epochs": 1}}}],
    "deploy": ["openvino"],
    "measure": {"batch_size": 2, "repeats": 3},
    "publish": {"to": "alice/small-segmenter", "license": "apache-2.0"},
}


def parquet(count, seed):
    generator = np.random.default_rng(seed)
    pairs = [[Image.fromarray(pixels) for pixels in drawn(generator)] for _ in range(count)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    rows = datasets.Dataset.from_dict(dict(zip(features, zip(*pairs, strict=True), strict=True)), features=features)
    content = io.BytesIO()
    rows.to_parquet(content)
    return content.getvalue()


def segment(source, picture, file):
    import transformers

    import hf_compress  # noqa: F401

    answers = transformers.pipeline("image-segmentation", model=source, device="cpu")(picture)
    found = {answer["label"]: np.asarray(answer["mask"]).tolist() for answer in answers}
    file.write_text(json.dumps(found))


@pytest.mark.long
def test_masks_of_the_hub_become_a_segmenter_on_the_hub(hub, client, tmp_path):
    folder = tmp_path / "segmenter"
    saved_segmenter(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("alice/segmenter", files | {"README.md": b"---\nlicense: apache-2.0\n---\n# A segmenter\n"})
    splits = {
        f"data/{split}-00000-of-00001.parquet": parquet(*of)
        for split, of in {"train": (30, 0), "test": (10, 1)}.items()
    }
    names = json.dumps(dict(enumerate(NAMES))).encode()
    hub.add("alice/shapes", splits | {"id2label.json": names}, kind="dataset")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = client.folder / "segmenter"
    result = client.cli("run", recipe, "--publish", "--output", out, HF_TOKEN=ALICE)
    assert result.code == 0, result.err[-3000:]

    sent = hub.files("alice/small-segmenter")
    report = json.loads(sent["report.json"])
    assert report["task"] == "segmentation" and report["labels"] == NAMES
    assert report["data"]["revision"] == hub.repo("alice/shapes", "dataset").resolve("main").oid
    assert report["data"]["left_out"] == []
    assert report["deployed"][0]["quality"]["mean_iou"] > 0.3
    assert b"pipeline_tag: image-segmentation" in sent["README.md"]
    picture = tmp_path / "picture.png"
    Image.fromarray(drawn(np.random.default_rng(5))[0]).save(picture)
    for source, file in ((str(out), "here.json"), ("alice/small-segmenter", "there.json")):
        assert client.call(segment, source, str(picture), tmp_path / file, HF_TOKEN=ALICE).code == 0
    here, there = (json.loads((tmp_path / file).read_text()) for file in ("here.json", "there.json"))
    assert here == there and len(here) > 1
