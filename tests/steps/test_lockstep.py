"""Passes through models side by side, which stop at layers."""

import pytest
import torch

from hf_compress.steps.pruning.repair.lockstep import Lockstep
from tests.nets import LAYERS, Net, assert_all_is_over, counted, photos


def test_batches_that_go_through_in_lockstep_come_out_as_from_a_forward_pass():
    models = counted(Net()), counted(Net(hidden=5, seed=1))
    with Lockstep(models) as lockstep:
        passes = [
            (model, images, lockstep.start(model, images, {"classify": ("stem", 1)}))
            for model in models
            for images in photos()
        ]
        for layer in LAYERS:
            for _, _, each in passes:
                each.to(layer)
                assert each.layer == layer
    assert_all_is_over(*models)
    for model in models:
        assert model.calls == dict.fromkeys(LAYERS, 3)
        assert model.ended == 3
    for model, images, each in passes:
        seen = []
        handle = model.wide.register_forward_hook(lambda layer, args, output, seen=seen: seen.append(args[0]))
        assert torch.equal(each.output, model(images)["logits"])
        handle.remove()
        assert torch.equal(each.skip, seen[0])


class Remembers(Net):
    """Keeps what it computed behind its first layer for its last one, as a detector the positions of queries."""

    def forward(self, pixel_values):
        self.kept = self.stem(pixel_values).relu()
        x = self.narrow(self.wide(self.kept))
        return {"logits": self.classify((x + self.kept).mean((2, 3)))}


def test_what_a_model_keeps_for_later_layers_is_of_the_same_pass():
    model = Remembers()
    with Lockstep([model]) as lockstep:
        passes = [(lockstep.start(model, images, {}), images) for images in photos()]
        for layer in LAYERS:
            for each, _ in passes:
                each.to(layer)
    assert_all_is_over(model)
    for each, images in passes:
        assert torch.equal(each.output, model(images)["logits"])


def test_a_pass_goes_on_with_another_output():
    model = Net()
    (images,) = photos(1)
    with Lockstep([model]) as lockstep:
        each = lockstep.start(model, images, {})
        each.to("narrow")
        assert torch.equal(each.output, model.narrow(each.source))
        each.output = torch.zeros_like(each.output)
        each.to("classify")
    model.narrow.weight.data.zero_()
    assert torch.equal(each.output, model(images)["logits"])


def test_an_exception_reaches_the_caller_and_leaves_nothing_behind():
    model = Net()
    model.before_addition.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), Lockstep([model]) as lockstep:
        first, second = (lockstep.start(model, images, {}) for images in photos(2))
        first.to("stem")
        second.to("narrow")
        second.to("classify")
    assert model.ended == 2
    assert_all_is_over(model)


def test_passes_that_are_left_half_way_end():
    model = Net()
    with Lockstep([model]) as lockstep:
        half_way, _ = (lockstep.start(model, images, {}) for images in photos(2))
        half_way.to("wide")
    assert model.ended == 1
    assert_all_is_over(model)


def test_a_layer_that_does_not_run_is_said():
    model = Net()
    with Lockstep([model]) as lockstep:
        each = lockstep.start(model, photos(1)[0], {})
        each.to("wide")
        with pytest.raises(RuntimeError, match="the model did not run its layer 'stem'"):
            each.to("stem")
    assert_all_is_over(model)
