"""Channel removal: models get smaller, still run, and lose the channels they should."""

import copy

import pytest
import torch
import torch_pruning as tp
from transformers import ResNetConfig, ResNetForImageClassification

from hf_compress.ground.errors import RunError
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.score.scoring import score

IMAGE = torch.randn(1, 3, 32, 32)


def tiny_resnet():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=4)
    return ResNetForImageClassification(config).eval()


def pruner(model, exclude=(), **options):
    return ChannelPruner(model, IMAGE, PruneSection(**options), set(exclude))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_registered_students_lose_real_channels(name, scope):
    model = build_registered(name, list("abcd"), width=0.25, image_size=32).model
    smaller = copy.deepcopy(model)
    channels = pruner(model, scope=scope)
    channels.prune(smaller, 0.4)
    assert count_parameters(smaller) < 0.8 * count_parameters(model)
    assert count_macs(smaller, IMAGE) < 0.8 * count_macs(model, IMAGE)
    assert smaller(IMAGE).logits.shape == (1, 4)
    assert channels.sparsity(smaller) == pytest.approx(0.4, abs=0.15)


def test_widths_are_multiples_and_the_floor_stays():
    model = tiny_resnet()
    channels = pruner(model, round_to=4, floor=0.5)
    channels.prune(model, 0.99)
    for name, width in channels.widths.items():
        assert model.get_submodule(name).weight.shape[0] == width // 2
    assert all(width // 2 % 4 == 0 for width in channels.widths.values())


def test_l1_removes_the_channels_with_the_smallest_filters():
    model = tiny_resnet()
    name = "resnet.encoder.stages.0.layers.0.layer.0.convolution"
    readers = model.resnet.encoder.stages[0].layers[0].layer[1].convolution
    with torch.no_grad():
        weak = [1, 5, 9, 12]
        model.get_submodule(name).weight[weak] *= 1e-3
        readers.weight[:, weak] *= 1e-3
        kept = model.get_submodule(name).weight[[c for c in range(16) if c not in weak]].clone()
    others = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and n != name]
    pruner(model, exclude=others, round_to=4).prune(model, 0.25)
    assert torch.equal(model.get_submodule(name).weight, kept)


def test_importance_agrees_with_torch_pruning():
    model = tiny_resnet()
    channels = pruner(model, importance="l1")
    ours = score(model, channels.groups(model), channels.config)
    graph = tp.DependencyGraph().build_dependency(model, IMAGE, forward_fn=lambda module, image: module(image).logits)
    reference = tp.importance.GroupMagnitudeImportance(
        p=1, normalizer=None, target_types=[torch.nn.Conv2d, torch.nn.Linear]
    )
    names = {module: name for name, module in model.named_modules()}
    compared = 0
    for group in graph.get_all_groups(root_module_types=[torch.nn.Conv2d]):
        name = names[group[0].dep.target.module]
        if name in ours:
            assert torch.allclose(ours[name], reference(group), rtol=1e-4)
            compared += 1
    assert compared == len(ours)


def test_the_classifier_keeps_its_labels_and_excluded_layers_their_width():
    model = tiny_resnet()
    excluded = "resnet.encoder.stages.0.layers.0.layer.0.convolution"
    channels = pruner(model, exclude=[excluded], round_to=4)
    channels.prune(model, 0.5)
    assert model.classifier[1].out_features == 4
    assert model.get_submodule(excluded).out_channels == 16
    assert channels.protected[excluded] == "excluded by the recipe"


def test_a_group_without_which_the_model_fails_is_protected_and_the_rest_is_pruned():
    class Fragile(ResNetForImageClassification):
        def forward(self, pixel_values, **kwargs):
            if self.resnet.embedder(pixel_values).shape[1] != 16:
                raise ValueError("the stem has 16 channels")
            return super().forward(pixel_values=pixel_values, **kwargs)

    model = Fragile(tiny_resnet().config).eval()
    channels = pruner(model, round_to=4)
    assert any("does not run" in reason for reason in channels.protected.values())
    before = count_parameters(model)
    channels.prune(model, 0.5)
    assert count_parameters(model) < before


def test_nothing_to_prune_is_an_error():
    with pytest.raises(RunError, match="nothing can be pruned"):
        pruner(tiny_resnet(), round_to=64)
