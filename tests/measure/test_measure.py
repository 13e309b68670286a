"""Quality against scikit-learn, costs against hand-made sums."""

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn

from hf_compress import save
from hf_compress.device import timing
from hf_compress.device.timing import WARM_UP
from hf_compress.measure import latency
from hf_compress.measure.cost import bytes_on_disk, cost, count_macs, peak_memory
from hf_compress.measure.latency import measure_latency
from hf_compress.measure.quality import quality
from hf_compress.models.students import build_registered

GENERATOR = torch.Generator().manual_seed(0)


def scores(classes, images=60):
    logits = torch.randn(images, classes, generator=GENERATOR)
    return logits, torch.randint(0, classes, (images,), generator=GENERATOR)


def test_quality_equals_scikit_learn():
    logits, labels = scores(4)
    result = quality(logits, labels)
    expected = roc_auc_score(labels, logits.double().softmax(1), multi_class="ovr", average="macro")
    assert result["roc_auc"] == pytest.approx(expected)
    assert result["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))


@pytest.mark.parametrize("seed", range(30))
def test_the_area_by_ranks_equals_scikit_learn(seed):
    """With ties, with a class of one image, and with classes without any."""
    generator = np.random.default_rng(seed)
    classes, images = int(generator.integers(2, 12)), int(generator.integers(3, 80))
    logits = torch.tensor(generator.normal(size=(images, classes)).round(int(generator.integers(0, 4)) % 3))
    labels = torch.tensor(generator.integers(0, max(1, classes - seed % 3), images))
    labels[labels == 0] = 1
    labels[0] = 0
    probabilities = logits.softmax(1).numpy()
    own = [(labels == c).numpy() for c in range(classes)]
    areas = [roc_auc_score(one, probabilities[:, c]) for c, one in enumerate(own) if 0 < one.sum() < images]
    assert quality(logits, labels)["roc_auc"] == pytest.approx(np.mean(areas), abs=1e-12)


def test_ten_thousand_images_of_a_thousand_classes_take_seconds():
    logits, labels = scores(1000, 10_000)
    start = time.process_time()
    assert 0.45 < quality(logits, labels)["roc_auc"] < 0.55
    assert time.process_time() - start < 5


def test_two_classes_give_the_binary_auc():
    logits, labels = scores(2)
    assert quality(logits, labels)["roc_auc"] == pytest.approx(roc_auc_score(labels, logits.softmax(1)[:, 1]))


def test_a_class_without_images_does_not_enter_the_average():
    logits, labels = scores(4)
    labels[labels == 3] = 0
    probabilities = logits.double().softmax(1).numpy()
    expected = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(3)])
    assert quality(logits, labels)["roc_auc"] == pytest.approx(expected)


def test_one_class_has_no_auc_and_unlabelled_images_do_not_count():
    logits, labels = scores(3)
    assert set(quality(logits, torch.zeros(60, dtype=torch.long))) == {"accuracy"}
    hidden = labels.clone()
    hidden[20:] = -100
    assert quality(logits, hidden) == quality(logits[:20], labels[:20])
    assert quality(logits, torch.full((60,), -100)) == {}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_macs_are_the_sum_over_convolutions_and_linear_layers(name):
    model = build_registered(name, list("abc"), width=0.25, image_size=32).model
    total = 0

    def count(module, inputs, output):
        nonlocal total
        per_output = module.weight[0].numel()
        total += output.numel() * per_output

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    counted = count_macs(model, torch.zeros(1, 3, 32, 32))
    assert counted == total


def test_costs_of_a_model_with_zeros(tmp_path):
    model = build_registered("resnet18", list("abc"), width=0.25, image_size=32).model
    image = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
        model.resnet.embedder.embedder.convolution.weight[:8] = 0
    result = cost(model, image)
    parameters = sum(p.numel() for p in model.parameters())
    assert result["parameters"] == parameters
    assert result["nonzero_parameters"] == parameters - 8 * 3 * 49
    assert 4 * parameters < result["bytes"] < 4.2 * parameters
    save(model, tmp_path)
    assert result["bytes"] == bytes_on_disk(model) == (tmp_path / "model.safetensors").stat().st_size
    assert result["peak_memory_bytes"] > 4 * parameters


def test_the_peak_of_memory_is_in_the_middle_of_a_model():
    """Of 4-byte numbers: 1000 x 4 and 2 x 1000 weights, an image of 12, and what is widest at once, 1000 and 2."""

    class Waist(nn.Module):
        def __init__(self):
            super().__init__()
            self.widen, self.narrow = nn.Linear(4, 1000, bias=False), nn.Linear(1000, 2, bias=False)

        def forward(self, pixel_values):
            return self.narrow(self.widen(pixel_values[:, 0, 0]))

    held, widest = 4 * 6000, 4 * 1000
    assert held + widest < peak_memory(Waist(), torch.zeros(1, 3, 1, 4)) < held + 1.2 * widest


def test_latency_has_quantiles_for_every_model_and_batch():
    model = build_registered("resnet18", list("abc"), width=0.125, image_size=32).model
    threads = torch.get_num_threads()
    results = measure_latency([model, model], [torch.zeros(1, 3, 32, 32)] * 2, [1, 2], repeats=3, threads=1)
    assert torch.get_num_threads() == threads
    for result in results:
        assert set(result) == {"batch_1", "batch_2"}
        assert all(0 < entry["p50_ms"] <= entry["p95_ms"] for entry in result.values())


def test_quantiles_are_of_the_passes_after_warm_up(monkeypatch):
    """Passes of 1, 2, ..., 21 ms: of 21 values, the 11th is the median and the 20th has 95 % of the way before it."""
    now, durations = [0.0], iter([9000] * WARM_UP + list(range(1, 22)))

    def call():
        now[0] += next(durations) / 1000

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    (result,) = latency.time_in_turns([call], 21, "a clock")
    assert result == {"p50_ms": pytest.approx(11), "p95_ms": pytest.approx(20), "noise": pytest.approx(16.5 / 11)}
    # of five rounds (1 to 5 ms, 6 to 9 ms, ...) the medians are 3, 7.5, 11.5, 15.5 and 19.5 ms


@pytest.mark.parametrize(("passes", "known"), [(10, True), (9, False)])
def test_others_are_compared_with_the_first_where_there_are_passes_enough(monkeypatch, passes, known):
    now = [0.0]

    def takes(seconds):
        now[0] += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    calls = [partial(takes, seconds) for seconds in (0.004, 0.002, 0.008)]
    first, *others = latency.time_in_turns(calls, passes, "clocks", against="teacher")
    assert "speedup" not in first
    told = [entry.get("speedup") for entry in others]
    exact = [{"against": "teacher", **dict.fromkeys(("ratio", "low", "high"), pytest.approx(x))} for x in (2, 0.5)]
    assert told == (exact if known else [None, None])
    assert all("speedup" not in entry for entry in latency.time_in_turns(calls, passes, "clocks"))


def test_batches_and_threads_are_those_asked_for():
    seen = []

    class Watched(nn.Module):
        def forward(self, pixel_values):
            seen.append((len(pixel_values), torch.get_num_threads()))

    usual = torch.get_num_threads()
    measure_latency([Watched()], [torch.zeros(1, 3, 4, 4)], [1, 5], repeats=2, threads=usual + 1)
    assert seen == [(size, usual + 1) for size in (1, 5) for _ in range(WARM_UP + 2)]
    assert torch.get_num_threads() == usual
