"""Pruning to a time, and by time: what is measured decides, noise does not mislead, a resumed run decides alike."""

import copy
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.ground.errors import RunError
from hf_compress.measure.cost import count_macs
from hf_compress.sections.data import DataSection
from hf_compress.sections.measure import MeasureSection
from hf_compress.steps.pruning import loop, recovery, timing
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.timing import Stopwatch
from hf_compress.training.context import Context

SPLITS = {"train": "train[:40]", "validation": "train[300:340]", "test": "train[400:440]"}
STEM = "resnet.embedder.embedder.convolution"


@pytest.fixture
def context(tmp_path):
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    return Context(data, processor, None, 0, tmp_path, log=lambda line: None, resumable=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic", "num_labels": 10}
    return ResNetForImageClassification(ResNetConfig(**sizes)).eval()


@pytest.fixture
def clock(monkeypatch):
    """Time falls with the MACs, but not in proportion to them, and every measurement is off by up to one percent."""

    class Clock(Stopwatch):
        noise = np.random.default_rng(0)
        looked: ClassVar[list] = []
        dear = STEM

        def time_gone(self, pruned):
            left = count_macs(pruned, self.image) / count_macs(self.unpruned, self.image)
            self.looked.append(1 - (0.2 + 0.8 * left**0.6) * (1 + self.noise.uniform(-0.01, 0.01)))
            return self.looked[-1]

        def unit_milliseconds(self, groups, without):
            self.looked.append(self.dear)
            return {group.name: 100.0 if group.name == self.dear else 1e-3 for group in groups}

    monkeypatch.setattr(loop, "Stopwatch", Clock)
    Clock.looked = []
    return Clock


def pruned(model, context, epochs=0, **options):
    options = {"round_to": 1, "repair": "none", "recovery": {"epochs": epochs}} | options
    if options.get("iterative", True):
        options = {"max_drop": 1.0, "amount": 0.2} | options
    return loop.prune_model(copy.deepcopy(model), context, PruneSection(**options)).details


@pytest.mark.parametrize("iterative", [True, False])
@pytest.mark.parametrize("wanted", [0.2, 0.35, 0.5])
def test_the_time_that_was_asked_for_goes_however_noisy_the_clock(model, context, clock, iterative, wanted):
    details = pruned(model, context, target={"latency": wanted}, iterative=iterative)
    assert details["target_reached"] and "missed" not in details
    last = details["rounds"][-1]
    assert last["latency"] == pytest.approx(wanted, abs=0.035) and last["latency"] >= wanted - 0.01
    assert last["latency"] in clock.looked
    assert all(row["latency"] < wanted for row in details["rounds"][:-1])
    assert len(clock.looked) <= len(details["rounds"]) + 5


def test_a_time_that_cannot_be_reached_is_refused_by_what_was_measured_once(model, context, clock):
    for _ in range(2):
        with pytest.raises(RunError, match=r"'prune\.target\.latency' 0\.9 cannot be reached: 0\.\d+ can go at most"):
            pruned(model, replace(context), target={"latency": 0.9})
    assert len(clock.looked) == 1


def test_a_time_that_was_not_reached_is_said(model, context, clock, monkeypatch):
    answers = iter([0.9, 0.9, 0.1, 0.1])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"accuracy": next(answers)})
    lines = []
    context = replace(context, log=lines.append)
    missed = pruned(model, context, target={"latency": 0.5}, amount=0.1, max_drop=0.01)["missed"]
    assert missed["what"] == "latency" and missed["reached"] == clock.looked[1]
    assert lines[1].startswith("round 1: ") and f"time {-missed['reached']:+.1%}, validation" in lines[1]
    assert "50.0% of the time were to go" in lines[-1] and "more would cost over 0.01" in lines[-1]


@pytest.mark.parametrize(
    "options", [{"target": {"latency": 0.3}}, {"scope": "cost", "budget": "latency", "amount": 0.3}], ids=str
)
def test_a_run_that_is_killed_while_it_trains_decides_alike_without_a_clock(
    model, context, clock, monkeypatch, options
):
    options |= {"iterative": False}
    killed = []

    def train(candidate, *_, **__):
        killed.append(count_macs(candidate, torch.zeros(1, 3, 32, 32)))
        if len(killed) == 1:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(recovery, "train", train)
    with pytest.raises(KeyboardInterrupt):
        pruned(model, context, epochs=1, **options)
    measured = list(clock.looked)
    clock.dear = "classifier.1"
    details = pruned(model, replace(context), epochs=1, **options)
    assert clock.looked == measured and len(set(killed)) == 1
    if "target" in options:
        assert details["rounds"][0]["latency"] in measured
    else:
        assert details["unit_milliseconds"][STEM] == 100.0


def test_with_budget_latency_the_units_that_cost_time_go(model, context, clock):
    options = {"scope": "cost", "iterative": False, "amount": 0.1, "floor": 0.25}
    image = torch.zeros(1, 3, 32, 32)
    found = ChannelPruner(model, image, PruneSection(round_to=1), set()).groups(model)
    for number, dear in enumerate([group.name for group in found][:2]):
        clock.dear = dear
        here = replace(context, work_folder=context.work_folder / str(number))
        details = pruned(model, here, budget="latency", **options)
        row = details["rounds"][0]
        assert row["budget"] == {"scope": "cost", "per": "latency"} and row["importance"] == "l1"
        config = PruneSection(round_to=1, **options)
        pruner = ChannelPruner(model, image, config, set())
        pruner.milliseconds = details["unit_milliseconds"]
        trial = copy.deepcopy(model)
        pruner.prune(trial, 0.1)
        left = {group.name: group.width for group in pruner.groups(trial)}
        lost = {group.name: group.width - left[group.name] for group in found}
        assert lost[dear] == sum(lost.values()) > 0
        assert count_macs(trial, image) == pytest.approx((1 - row["macs"]) * count_macs(model, image))


class Wide(torch.nn.Module):
    """A pair of layers on large maps, and one on small ones."""

    def __init__(self):
        super().__init__()
        self.dear, self.dear_read = torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.Conv2d(64, 8, 3, padding=1)
        self.cheap, self.classify = torch.nn.Conv2d(8, 64, 1), torch.nn.Linear(64, 5)

    def forward(self, pixel_values):
        maps = self.dear_read(self.dear(pixel_values).relu()).relu()
        return self.classify(self.cheap(maps[..., :4, :4]).relu().mean((2, 3)))


def test_a_unit_on_large_maps_takes_more_time_and_none_less_than_nothing():
    model, image = Wide().eval(), torch.zeros(1, 3, 96, 96)
    pruner = ChannelPruner(model, image, PruneSection(round_to=1), set())
    stopwatch = Stopwatch(model, image, MeasureSection(batch_size=2, threads=1))
    found = pruner.measure(model, stopwatch)
    assert found.keys() == {"dear", "dear_read", "cheap"}
    assert found["dear"] > 10 * found["cheap"] and min(found.values()) > 0
    trial = copy.deepcopy(model)
    pruner.apply(trial, pruner.groups(trial), {"dear": list(range(48))})
    assert 0.2 < stopwatch.time_gone(trial) < 0.95


def test_time_is_measured_as_the_recipe_says_and_slow_models_take_fewer_turns(model, monkeypatch):
    asked = []

    def measure_latency(models, images, sizes, repeats, threads, runtime):
        asked.append((len(models), sizes, repeats, threads, runtime))
        return [{"batch_4": {"p50_ms": took}} for took in (500.0, 300.0)[: len(models)]]

    monkeypatch.setattr(timing, "measure_latency", measure_latency)
    measure = MeasureSection(batch_size=4, threads=2, runtimes=["onnxruntime", "eager"], repeats=20)
    stopwatch = Stopwatch(model, torch.zeros(1, 3, 32, 32), measure)
    assert stopwatch.time_gone(model) == stopwatch.time_gone(model) == pytest.approx(0.4)
    assert asked == [(1, [4], 1, 2, "eager"), *[(2, [4], 10, 2, "onnxruntime")] * 2]
