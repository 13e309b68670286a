"""Block pruning: which modules are blocks, which go first, and that models without them reload, train and go on."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_compress.checkpoint import save
from hf_compress.checkpoint.quantizer import CheckpointConfig
from hf_compress.checkpoint.rewrites import Dropped, apply_rewrites
from hf_compress.data import load_data
from hf_compress.data.images import spread
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.outputs import in_rows, outputs_of
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.exporting import exportable
from hf_compress.runtimes import runtime
from hf_compress.sections.base import validate
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning import loop
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.blocks import BlockPruner
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.tracing.blocks import find_blocks
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.context import Context
from tests.families import FAMILIES, STAGES, Family

SPLITS = {"train": "train[:60]", "validation": "train[300:340]", "test": "train[400:440]"}
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DEEP = Family("resnet", "ResNetConfig", {"embedding_size": 16, **STAGES, "depths": [3, 3], "layer_type": "basic"})
LAYER = "resnet.encoder.stages.{}.layers.{}"


def family(name):
    return next(each for each in FAMILIES if each.name == name)


def image_of(name):
    return torch.zeros(1, 3, family(name).image_size, family(name).image_size)


@pytest.fixture
def context(tmp_path):
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    return Context(data, DEEP.processor(), None, 0, tmp_path, log=lambda line: None)


def calibration(model, context):
    return Calibration(spread(context.data.train, 48), context.processor, model, CLASSIFICATION)


def pruner(model, exclude=(), **options):
    return BlockPruner(model, IMAGE, PruneSection(granularity="block", **options), set(exclude))


def pruned(model, context, **options):
    options = {"granularity": "block", "calibration": 48, "recovery": {"epochs": 0}} | options
    return loop.prune_model(copy.deepcopy(model), context, PruneSection(**options))


def dropped(model):
    return [name for name, module in model.named_modules() if isinstance(module, Dropped)]


def says_the_same(one, other, image=IMAGE):
    with torch.no_grad():
        return torch.allclose(one(image).logits, other(image).logits, atol=1e-5)


def without_effect(block):
    """Let a basic layer of ResNet add zeros."""
    nn.init.zeros_(block.layer[-1].normalization.weight)
    nn.init.zeros_(block.layer[-1].normalization.bias)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet", [LAYER.format(0, 0), LAYER.format(1, 1)]),
        (
            "convnext",
            [f"convnext.encoder.stages.{n}" for n in ("0.layers.0", "1.layers.0", "1.layers.1")],
        ),
        ("vit", ["vit.layers.0", "vit.layers.1"]),
        ("dinov2", ["dinov2.encoder.layer.0", "dinov2.encoder.layer.1"]),
        ("swin", [f"swin.encoder.layers.{n}" for n in ("0.blocks.0", "1.blocks.0", "1.blocks.1")]),
        ("convnextv2", [f"convnextv2.encoder.stages.{n}" for n in ("0.layers.0", "1.layers.0", "1.layers.1")]),
        ("timm resnet18", [f"timm_model.layer{n}.1" for n in (1, 2, 3, 4)]),
        ("mobilenet_v2", [f"mobilenet_v2.layer.{n}" for n in (1, 3, 4, 6, 7, 8, 10, 11, 13, 14)]),
        ("mobilenet_v1", []),
    ],
)
def test_blocks_of_families(name, expected):
    assert [block.name for block in find_blocks(family(name).build(), image_of(name))] == expected


class Adds(nn.Module):
    """Adds what `f` makes of the input, in a tuple or not."""

    def __init__(self, f, length=None):
        super().__init__()
        self.f = f
        self.length = length

    def forward(self, x):
        total = x + self.f(x)
        return total if self.length is None else (total, *[None] * (self.length - 1))


class Way(nn.Module):
    """The end of a block, that is given the block's input and what is to be added."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x, branch):
        return x + self.last(branch)


class Longer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.way = Way()

    def forward(self, hidden):
        return self.way(hidden, self.first(hidden))


class Shifts(nn.Module):
    """Keeps the shape and adds, but not what it was given."""

    def __init__(self):
        super().__init__()
        self.f, self.by = nn.Conv2d(3, 3, 1), nn.Parameter(torch.rand(1, 3, 32, 32))

    def forward(self, x):
        made = self.f(x)
        return made + made.relu() + self.by


class Odd(nn.Module):
    """A model of blocks, and of what only looks like some."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Sequential(Adds(nn.Conv2d(3, 3, 1)), Adds(nn.Conv2d(3, 3, 1)))
        self.only = nn.Sequential(Longer())
        self.tuple = Adds(nn.Conv2d(3, 3, 1), 3)
        self.twice = Adds(nn.Conv2d(3, 3, 1))
        self.plain = Adds(nn.ReLU())
        self.shifts = Shifts()
        self.asked = Adds(nn.Conv2d(3, 3, 1))
        self.wider = nn.Conv2d(3, 6, 1)
        self.position = nn.Parameter(torch.rand(1, 3, 32, 32))

    def forward(self, pixel_values):
        x = self.only(self.stage(pixel_values + self.position))
        x, _, _ = self.tuple(x)
        x = self.plain(self.shifts(self.twice(self.twice(x))))
        return {"logits": self.wider(self.asked(x)).mean((2, 3)) * self.asked.f.out_channels}


def test_blocks_are_the_smallest_that_run_once_and_hold_a_layer():
    torch.manual_seed(0)
    model = Odd().eval()
    found = {"stage.0": None, "stage.1": None, "only.0": None, "tuple": 3, "asked": None}
    assert {block.name: block.length for block in find_blocks(model, IMAGE)} == found
    blocks = pruner(model)
    assert list(blocks.blocks) == ["stage.0", "stage.1", "only.0", "tuple"]
    assert blocks.protected == {"asked": "the model does not run without it"}
    assert list(pruner(model, exclude=["stage.1.f"]).blocks) == ["stage.0", "only.0", "tuple"]
    blocks.remove(model, {name: torch.zeros(1) for name in blocks.blocks}, 0.9)
    assert dropped(model) == ["stage.0", "stage.1", "only.0"]


@pytest.mark.parametrize("metric", ["macs", "parameters", "sparsity"])
def test_blocks_that_do_nothing_go_first_and_leave_the_logits(context, metric):
    model = DEEP.build()
    for block in (LAYER.format(0, 2), LAYER.format(1, 1)):
        without_effect(model.get_submodule(block))
    blocks = pruner(model, target={metric: 0.3})
    smaller = copy.deepcopy(model)
    blocks.prune(smaller, 0.4, calibration(model, context))
    assert dropped(smaller) == [LAYER.format(0, 2), LAYER.format(1, 1)]
    assert blocks.sparsity(smaller) == pytest.approx(2 / 5)
    assert says_the_same(model, smaller)
    assert count_macs(smaller, IMAGE) < count_macs(model, IMAGE)
    assert count_parameters(smaller) < count_parameters(model)


def constant(block, value):
    nn.init.zeros_(block.weight)
    nn.init.constant_(block.bias, value)


@pytest.mark.parametrize(
    ("metric", "first"), [("sparsity", "stage.0"), ("macs", "stage.1"), ("parameters", "stage.1")]
)
def test_errors_count_by_what_the_target_counts(context, metric, first):
    torch.manual_seed(0)
    model = Odd().eval()
    model.stage[1] = Adds(nn.Conv2d(3, 3, 5, padding=2))
    constant(model.stage[0].f, 0.01)
    constant(model.stage[1].f, 0.02)
    smaller = copy.deepcopy(model)
    pruner(model, target={metric: 0.1}).prune(smaller, 0.25, calibration(model, context))
    assert dropped(smaller) == [first]


def test_blocks_are_tried_anew_after_each_that_goes(context):
    """The second that goes is the one that undoes the first, though more is missed of it alone than of another."""
    torch.manual_seed(0)
    model = Odd().eval()
    for layer, value in (
        (model.stage[0].f, 1.0),
        (model.stage[1].f, -1.5),
        (model.tuple.f, 1.2),
        (model.twice.f, 0.0),
    ):
        constant(layer, value)
    constant(model.only[0].way.last, 5.0)
    smaller = copy.deepcopy(model)
    pruner(model).prune(smaller, 0.5, calibration(model, context))
    assert dropped(smaller) == ["stage.0", "stage.1"]


@pytest.mark.parametrize("name", ["vit", "swin", "poolformer", "timm resnet18"])
def test_what_is_saved_reloads_with_equal_logits_and_saves_again(name, tmp_path):
    model, image = family(name).build(), torch.rand(image_of(name).shape)
    blocks = BlockPruner(model, image, PruneSection(granularity="block"), set())
    blocks.remove(model, {block: torch.zeros(1) for block in blocks.blocks}, 0.5)
    assert dropped(model)
    for folder in ("first", "second"):
        save(model, tmp_path / folder)
        model, before = AutoModelForImageClassification.from_pretrained(tmp_path / folder).eval(), model
        assert dropped(model) == dropped(before)
        assert says_the_same(model, before, image)


@pytest.mark.parametrize("name", ["vit", "poolformer", "timm resnet18"])
def test_what_is_left_is_exported(name, tmp_path):
    model, image = family(name).build().eval(), torch.rand(image_of(name).shape)
    blocks = BlockPruner(model, image, PruneSection(granularity="block"), set())
    blocks.remove(model, {block: torch.zeros(1) for block in blocks.blocks}, 0.5)
    exported = exportable(model, image)
    runtime("onnx").write(exported, tmp_path / "model.onnx")
    said = runtime("onnx").load(tmp_path / "model.onnx", threads=1)(image.numpy())
    logits = torch.from_numpy(said[exported.outputs.index("logits")])
    assert torch.allclose(model(image).logits, logits, atol=1e-4)


def test_without_blocks_there_is_nothing_to_prune():
    with pytest.raises(RunError, match="MobileNetV1ForImageClassification has no block"):
        model = family("mobilenet_v1").build()
        BlockPruner(model, image_of("mobilenet_v1"), PruneSection(granularity="block"), set())


@pytest.mark.parametrize(
    "option",
    [{"importance": "taylor"}, {"scope": "cost"}, {"sensitivity": "a.csv"}, {"layout": "config"}],
    ids=lambda option: next(iter(option)),
)
def test_options_that_rank_channels_are_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} does nothing here: w"):
        validate(PruneSection, {"granularity": "block"} | option)


def test_blocks_are_not_judged_without_images():
    model = DEEP.build()
    with pytest.raises(UsageError, match="needs calibration images"):
        pruner(model).prune(model, 0.5)


@pytest.mark.parametrize("record", [{}, {"length": 0}, {"length": None, "layers": []}, {"length": "1"}], ids=str)
def test_malformed_records_of_dropped_blocks_are_refused(record):
    with pytest.raises(RunError, match="damaged or were changed"):
        CheckpointConfig(rewrites={"a": {"kind": "dropped"} | record})


def test_a_dropped_block_that_the_architecture_lacks_is_refused():
    with pytest.raises(RunError, match="a rewrite of 'none'"):
        apply_rewrites(DEEP.build(), {"none": {"kind": "dropped", "length": None}})


def test_the_floor_stays_and_says_so(context):
    model = DEEP.build()
    result = pruned(model, context, floor=0.5, amount=0.4, max_drop=1.0, repair="none")
    assert len(dropped(result.model)) == 2
    with pytest.raises(RunError, match=r"cannot be reached: 0\.\d+ can go at most, with 'floor' 0\.5; lower"):
        pruned(model, context, floor=0.5, target={"macs": 0.9})
    with pytest.raises(RunError, match=r"amount 0\.05 is less than one block"):
        pruned(model, context, iterative=False, amount=0.05)


@pytest.mark.parametrize("metric", ["macs", "parameters", "sparsity"])
def test_one_shot_takes_the_fewest_blocks_that_meet_the_target(context, metric):
    model = DEEP.build()
    result = pruned(model, context, iterative=False, target={metric: 0.35})
    (row,) = result.details["rounds"]
    assert result.details["target_reached"]
    assert row[metric] >= 0.35
    assert row["output_error_after"] >= 0
    left = copy.deepcopy(result.model)
    back = dropped(left)[0]
    left.set_submodule(back, model.get_submodule(back))
    assert row["sparsity"] == len(dropped(result.model)) / 5


@pytest.mark.long
def test_rounds_go_on_where_they_were_killed(context, monkeypatch):
    model, judged = DEEP.build(), []
    options = {"amount": 0.2, "target": {"sparsity": 0.6}, "max_drop": 1.0, "repair": "least_squares"}
    expected = pruned(model, replace(context, work_folder=context.work_folder / "whole"), **options)
    real = loop.evaluate

    def killed_in_the_third_round(*arguments):
        judged.append(1)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", killed_in_the_third_round)
    with pytest.raises(KeyboardInterrupt):
        pruned(model, replace(context), **options)
    resumed = pruned(model, replace(context, resumable=True), **options)
    assert len(judged) == 5  # the unpruned model and the first round were not judged again
    assert resumed.details["rounds"] == expected.details["rounds"]
    assert [row["sparsity"] for row in resumed.details["rounds"]] == pytest.approx([0.2, 0.4, 0.6])
    weights = expected.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resumed.model.state_dict().items())


def test_channels_go_from_a_model_without_some_blocks(context, tmp_path):
    model = DEEP.build()
    shallow = pruned(model, context, iterative=False, amount=0.4, repair="least_squares").model
    folder = replace(context, work_folder=context.work_folder / "channels")
    options = {"granularity": "channel", "round_to": 4, "amount": 0.3, "repair": "least_squares"}
    thin = pruned(shallow, folder, iterative=False, **options).model
    assert dropped(thin) == dropped(shallow)
    assert count_parameters(thin) < count_parameters(shallow)
    save(thin, tmp_path / "thin")
    config = json.loads((tmp_path / "thin" / "config.json").read_text())["quantization_config"]
    assert set(config["rewrites"]) == set(dropped(thin))
    assert config["shapes"]
    assert says_the_same(AutoModelForImageClassification.from_pretrained(tmp_path / "thin").eval(), thin)


def test_layers_behind_a_dropped_block_make_up_for_it(context):
    """A block whose branch is linear, before one that reads the same: the repair loses nothing."""
    torch.manual_seed(0)
    model = Odd().eval()
    images = list(calibration(model, context).pixel_values())
    smaller = copy.deepcopy(model)
    smaller.stage[0] = Dropped()
    before = in_rows(outputs_of(model, images))
    error = (in_rows(outputs_of(smaller, images)) - before).square().mean()
    least_squares(model, smaller, {}, images)
    assert (in_rows(outputs_of(smaller, images)) - before).square().mean() < 0.1 * error
