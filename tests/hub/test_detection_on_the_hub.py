"""Detection from the Hub and to it: boxes in parquet files, a run that publishes, its files and a pipeline of it."""

import io
import json

import pytest
import yaml
from detectors import NAMES, rt_detr, saved_detector, write_squares
from hub_client import ALICE

from hf_compress.data.coco import find_coco, load_coco
from hf_compress.data.folders import scan
from hf_compress.sections.data import DataSection

FAST = {"epochs": 1, "batch_size": 6, "learning_rate": 0.001}
RECIPE = {
    "task": "detection",
    "teacher": "alice/detector",
    "student": "teacher",
    "data": {"path": "alice/squares", "augmentation": "light"},
    "steps": [{"finetune": FAST}, {"prune": {"amount": 0.3, "iterative": False, "recovery": FAST}}],
    "deploy": ["onnx", "openvino"],
    "measure": {"batch_size": 2, "repeats": 3},
    "publish": {"to": "alice/small-detector", "license": "apache-2.0"},
}


def detect(source, picture, file):
    import transformers

    import hf_compress  # noqa: F401

    find = transformers.pipeline("object-detection", model=source, device="cpu")
    file.write_text(json.dumps(find(picture, threshold=0.0)))


@pytest.mark.long
def test_boxes_of_the_hub_become_a_detector_on_the_hub(hub, client, tmp_path):
    saved_detector(rt_detr(), tmp_path / "detector")
    files = {path.name: path.read_bytes() for path in (tmp_path / "detector").iterdir()}
    hub.add("alice/detector", files | {"README.md": b"---\nlicense: apache-2.0\n---\n# A detector\n"})
    squares = scan(write_squares(tmp_path / "squares"))
    rows, _ = load_coco(squares, find_coco(squares), DataSection(path="alice/squares"))
    sent = {}
    for split, part in rows.items():
        content = io.BytesIO()
        part.to_parquet(content)
        sent[f"data/{split}-00000-of-00001.parquet"] = content.getvalue()
    hub.add("alice/squares", sent, kind="dataset")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = client.folder / "detector"
    result = client.cli("run", recipe, "--publish", "--output", out, HF_TOKEN=ALICE)
    assert result.code == 0, result.err[-3000:]

    sent = hub.files("alice/small-detector")
    report = json.loads(sent["report.json"])
    assert report["task"] == "detection" and report["labels"] == NAMES and report["not_deployed"] == []
    assert [set(row["max_difference"]) for row in report["deployed"]] == [{"logits", "pred_boxes"}] * 2
    assert all(set(row["quality"]) == {"map", "map_50"} for row in report["deployed"])
    assert b"pipeline_tag: object-detection" in sent["README.md"]
    picture = str(tmp_path / "squares" / "test" / "0.png")
    for source, file in ((str(out), "here.json"), ("alice/small-detector", "there.json")):
        assert client.call(detect, source, picture, tmp_path / file, HF_TOKEN=ALICE).code == 0
    here, there = (json.loads((tmp_path / file).read_text()) for file in ("here.json", "there.json"))
    assert here == there and len(here) == 20
