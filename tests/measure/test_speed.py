"""Latency in several runtimes, and the sentence that says where fewer MACs were not less time."""

import pytest
import torch
from torch import nn

from hf_compress import Recipe
from hf_compress.ground.errors import UsageError
from hf_compress.measure.latency import PREPARE, measure_latency, second_batch
from hf_compress.models.students import build_registered
from hf_compress.report.limits import speed_remarks
from hf_compress.report.table import report_table
from hf_compress.sections.measure import MeasureSection

COSTS = dict.fromkeys(("parameters", "nonzero_parameters", "bytes", "peak_memory_bytes"), 1e6)


def row(stage, macs, eager, **runtimes):
    def latency(p50):
        return {"batch_1": {"p50_ms": p50, "p95_ms": 2 * p50}}

    found = {name: latency(p50) for name, p50 in runtimes.items()}
    return {
        "stage": stage,
        "quality": {"accuracy": 0.5},
        "cost": {**COSTS, "macs": macs},
        "latency": latency(eager),
        **({"runtimes": found} if found else {}),
    }


def test_fewer_macs_that_are_not_less_time_are_a_sentence():
    rows = [row("teacher", 100e6, 10.0, onnxruntime=4.0), row("1 prune", 50e6, 9.9, onnxruntime=2.0)]
    assert speed_remarks(rows) == [
        "'1 prune' has 2.00x fewer MACs than 'teacher', but is not faster with eager at batch 1: "
        "9.90 ms against 10.00 ms"
    ]


@pytest.mark.parametrize(("macs", "eager"), [(50e6, 6.0), (100e6, 12.0), (97e6, 10.0)])
def test_less_time_or_no_fewer_macs_are_no_remark(macs, eager):
    assert speed_remarks([row("teacher", 100e6, 10.0), row("1 prune", macs, eager)]) == []


def test_a_rewrite_that_is_slower_than_the_stage_before_is_a_sentence():
    rewritten = row("2 rewrite", 40e6, 6.0) | {"details": {"rewrite": "separable"}}
    rows = [row("teacher", 100e6, 10.0), row("1 distill", 50e6, 5.0), rewritten]
    says = "'2 rewrite' is slower than '1 distill' with eager at batch 1: 6.00 ms against 5.00 ms"
    assert speed_remarks(rows) == [says]
    assert speed_remarks([*rows[:2], rewritten | {"latency": rows[1]["latency"]}]) == []
    assert speed_remarks([*rows[:2], row("2 finetune", 50e6, 6.0)]) == []


def test_the_table_shows_runtimes_and_remarks():
    rows = [row("teacher", 100e6, 10.0, onnxruntime=4.0), row("1 prune", 50e6, 9.9, onnxruntime=2.0)]
    table = report_table({"rows": rows, "remarks": speed_remarks(rows)})
    headings = [str(cell) for cell in table.columns[0].cells]
    assert {"latency, one image, p50", "latency with onnxruntime, one image, p95"} <= set(headings)
    assert "is not faster with eager" in table.caption


@pytest.mark.parametrize("name", ["eager", "onnxruntime"])
def test_a_prepared_model_gives_its_own_logits(name):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    loaded = build_registered("resnet18", list("abc"), width=0.125, image_size=32)
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = loaded.model.eval()(pixel_values=image).logits
        found = PREPARE[name](loaded.model, image, 1)(image)
    torch.testing.assert_close(torch.as_tensor(found[0]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_a_compiled_model_is_measured(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp_cache_precompile_headers", False)  # takes longer than one kernel

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, pixel_values):
            return self.layer(pixel_values.mean(dim=(1, 2)))

    (result,) = measure_latency(
        [Tiny().eval()], [torch.zeros(1, 3, 4, 4)], [1], repeats=3, threads=1, runtime="compile"
    )
    assert result["batch_1"]["p95_ms"] >= result["batch_1"]["p50_ms"] > 0


def test_unknown_runtimes_are_refused():
    with pytest.raises(UsageError, match=r"'measure.runtimes.0' cannot be 'onxruntime'; did you mean 'onnxruntime'"):
        Recipe.from_dict(
            {"teacher": "a/b", "data": "digits", "steps": ["prune"], "measure": {"runtimes": ["onxruntime"]}}
        )


@pytest.mark.parametrize(
    ("given", "sides", "expected"), [(None, [224], 64), (None, [32], 64), (None, [512, 224], 12), (7, [2048], 7)]
)
def test_the_second_batch_has_as_many_pictures_as_are_asked_for_or_fit(given, sides, expected):
    images = [torch.zeros(1, 3, side, side) for side in sides]
    assert second_batch(MeasureSection(batch_size=given), [images[0], tuple(images)]) == expected
