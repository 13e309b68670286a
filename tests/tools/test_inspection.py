"""The layer table against hand-made counts."""

import io
import json

import pytest
import torch
from rich.console import Console
from shapes import saved_segmenter, tiny_segmenter
from typer.testing import CliRunner

from hf_compress import save
from hf_compress.cli import app
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.tools.inspection import inspect, inspect_layers, layer_table

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def pruned():
    loaded = build_registered("resnet18", list("abc"), width=0.25, image_size=32)
    ChannelPruner(loaded.model, IMAGE, PruneSection(), set()).prune(loaded.model, 0.5)
    stem = loaded.model.resnet.embedder.embedder.convolution
    with torch.no_grad():
        stem.weight[0] = 0
    return loaded


def test_shapes_sparsity_and_costs_of_a_pruned_model(pruned):
    rows = inspect_layers(pruned.model, IMAGE)
    stem = rows[0]
    assert stem["layer"] == "resnet.embedder.embedder.convolution"
    assert stem["shape"] == [8, 3, 7, 7]
    assert stem["unpruned_shape"] == [16, 3, 7, 7]
    assert stem["sparsity"] == pytest.approx(1 / 8)
    assert stem["parameters"] == 8 * 3 * 49
    assert stem["macs"] == 16 * 16 * 8 * 3 * 49
    assert sum(row["parameters"] for row in rows) == count_parameters(pruned.model)
    assert sum(row["macs"] for row in rows) == count_macs(pruned.model, IMAGE)
    assert all(0 < row["time_share"] < 1 for row in rows)
    assert sum(row["time_share"] for row in rows) < 1.1
    assert layer_table(rows).row_count == len(rows) + 1


def test_eighty_columns_show_every_name_and_number(pruned):
    rows = inspect_layers(pruned.model, IMAGE)
    console = Console(width=80, file=io.StringIO())
    console.print(layer_table(rows))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    shown = "".join(lines)
    assert "…" not in shown
    assert all(f"{row['parameters']:,}" in shown for row in rows)
    assert lines[3].split() == [
        "resnet.embedder",
        "Conv2d",
        "8x3x7x7",
        "12.5%",
        "1,176",
        "0.30",
        "M",
        lines[3].split()[-1],
    ]
    assert [line.split()[0] for line in lines[4:6]] == [".embedder", ".convolution"]


def test_the_command_prints_json(pruned, tmp_path):
    save(pruned.model, tmp_path, pruned.processor)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert [row["shape"] for row in json.loads(result.stdout)] == [
        row["shape"] for row in inspect_layers(pruned.model, IMAGE)
    ]


def test_a_model_for_another_task_is_shown_too(tmp_path):
    rows = inspect(saved_segmenter(tmp_path / "segmenter"))
    assert rows[-1]["layer"] == "decode_head.classifier"
    assert sum(row["parameters"] for row in rows) == count_parameters(tiny_segmenter())
