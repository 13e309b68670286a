"""Pruning through Neural Compressor's prepare, convert, quantize and autotune: the zeros are those of the step."""

import copy

import pytest
import torch
from neural_compressor.torch import quantization
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import DynamicQuantConfig, RTNConfig, StaticQuantConfig, TuningConfig
from torch import nn
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

import hf_compress
from hf_compress.adapters.neural_compressor import PruneConfig, autotune, convert, next_round, prepare, quantize
from hf_compress.ground.errors import UsageError
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner, pattern_mask, prunable_weights

IMAGE = torch.zeros(1, 3, 32, 32)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 5))


def classifier():
    torch.manual_seed(0)
    return build_registered("resnet18", list("abcd"), width=0.125, image_size=32).model


def train(model, steps=3):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(steps):
        model(torch.randn(8, 3, 5, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def zeros(model):
    return {name: weight == 0 for name, weight in prunable_weights(model, set()).items()}


def sparsities(model):
    return [round(zero.float().mean().item(), 2) for zero in zeros(model).values()]


def assert_ordinary(model):
    untouched = network()
    assert vars(model).keys() == vars(untouched).keys()
    assert not model._forward_pre_hooks and not model._forward_hooks
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert not list(model.buffers())


@pytest.mark.parametrize(
    "options",
    [
        {"amount": 0.5},
        {"amount": 0.7, "scope": "global", "importance": "l2"},
        {"amount": 0.5, "dim": 0, "importance": "ln", "n": 3.0},
    ],
)
def test_prepare_train_convert_zeroes_what_the_step_zeroes_and_keeps_it(options):
    expected = network()
    WeightPruner(expected, PruneSection(granularity="weight", **options), set()).prune(expected, options["amount"])
    model = prepare(network(), PruneConfig(**options))
    train(model)
    model = convert(model)
    for name, zero in zeros(expected).items():
        assert torch.equal(zeros(model)[name], zero)
    assert not torch.equal(model[0].weight, expected[0].weight)
    assert_ordinary(model)


def test_training_equals_a_loop_that_masks_after_every_step():
    expected = network()
    WeightPruner(expected, PruneSection(granularity="weight"), set()).prune(expected, 0.5)
    masks = {name: ~zero for name, zero in zeros(expected).items()}
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    torch.manual_seed(1)
    for _ in range(3):
        expected(torch.randn(8, 3, 5, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, weight in prunable_weights(expected, set()).items():
                weight.mul_(masks[name])
    model = quantize(network(), PruneConfig(amount=0.5), run_fn=train)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_not_in_place_finishes_a_copy_and_leaves_the_prepared_model_as_it_is():
    model = prepare(network(), PruneConfig(amount=0.5))
    train(model)
    converted = convert(model, inplace=False)
    assert_ordinary(converted)
    assert list(model.state_dict()) == list(converted.state_dict())
    train(model)
    assert sparsities(convert(model)) == sparsities(converted) == [0.5, 0.5, 0.5]


def test_convert_without_prepare_prunes_in_one_shot():
    model = convert(network(), PruneConfig(amount=0.5))
    assert sparsities(model) == [0.5, 0.5, 0.5]
    assert_ordinary(model)


def test_local_configs_choose_layers_and_amounts():
    config = PruneConfig(amount=0.5).set_local("0", PruneConfig(amount=0)).set_local("5", PruneConfig(amount=0.25))
    assert sparsities(convert(network(), config)) == [0, 0.5, 0.25]
    assert sparsities(convert(network(), PruneConfig(amount=0.5, white_list=[nn.Linear]))) == [0, 0.5, 0.5]


def test_a_pattern_is_zeroed_where_it_fits_and_kept():
    model = quantize(network(), PruneConfig(granularity="n:m", pattern="1:4"), run_fn=train)
    assert sparsities(model) == [0, 0.75, 0.75]
    expected = pattern_mask(network()[3].weight.abs(), 1, 4)
    assert torch.equal(model[3].weight != 0, expected)
    assert_ordinary(model)


def test_rounds_train_between_prunings():
    seen = []
    model = quantize(network(), PruneConfig(amount=0.6, rounds=3), run_fn=lambda model: seen.append(sparsities(model)))
    assert seen == [[0.2] * 3, [0.4] * 3, [0.6] * 3]
    assert_ordinary(model)


def test_an_own_loop_goes_on_with_next_round():
    model = prepare(network(), PruneConfig(amount=0.6, rounds=2))
    assert sparsities(model) == [0.3] * 3
    with pytest.raises(UsageError, match="1 of 2 pruning rounds are done"):
        convert(model, inplace=False)
    train(model)
    assert next_round(model)
    train(model)
    assert not next_round(model)
    assert sparsities(convert(model)) == [0.6] * 3
    with pytest.raises(UsageError, match="not prepared for pruning"):
        next_round(model)


def test_run_args_reach_the_training():
    seen = []
    quantize(network(), PruneConfig(), run_fn=lambda model, *args: seen.append(args), run_args=(1, "two"))
    assert seen == [(1, "two")]


def test_preparing_twice_is_an_error():
    with pytest.raises(UsageError, match="prepared for pruning already"):
        prepare(prepare(network(), PruneConfig()), PruneConfig())


def test_another_algorithms_state_is_left_alone():
    model = network()
    model.quantizer = "of another algorithm"
    model = convert(prepare(model, PruneConfig()))
    assert model.quantizer == "of another algorithm"


def test_no_matching_layer_is_an_error_before_anything_is_done():
    with pytest.raises(UsageError, match="prunes no layer"):
        prepare(nn.Sequential(nn.BatchNorm2d(3)), PruneConfig())


def test_autotune_takes_the_first_amount_within_the_tolerable_loss():
    def quality(model):
        return 1 - sparsities(model)[0] ** 2

    tuning = TuningConfig(config_set=[PruneConfig(amount=[0.8, 0.5, 0.3])], tolerable_loss=0.3)
    model = autotune(network(), tuning, eval_fn=quality, run_fn=train)
    assert sparsities(model) == [0.5, 0.5, 0.5]
    assert_ordinary(model)


def test_neural_compressors_own_quantisation_comes_after_and_keeps_the_zeros():
    model = quantize(network(), PruneConfig(amount=0.5), run_fn=train)
    zero = (model[3].weight == 0).clone()
    quantized = quantization.quantize(model, RTNConfig(bits=8, group_size=-1))
    assert quantized.is_quantized
    assert (quantized[3].recover()[zero] == 0).all()


def test_channels_are_those_the_step_removes():
    expected = classifier()
    others = {"classifier.1"}
    options = {"granularity": "channel", "scope": "global"}
    ChannelPruner(expected, IMAGE, PruneSection(**options), others).prune(expected, 0.4)
    for calls in (
        lambda model, config: convert(prepare(model, config, example_inputs=IMAGE)),
        lambda model, config: quantize(model, config, example_inputs=(IMAGE,)),
    ):
        model = calls(classifier(), PruneConfig(amount=0.4, **options).set_local("classifier", PruneConfig(amount=0)))
        assert model.state_dict().keys() == expected.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name])
        assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in classifier().parameters())


def test_options_of_the_step_work_as_in_a_recipe():
    excluded = PruneConfig(amount=0.5, exclude=["3"])
    assert sparsities(convert(network(), excluded)) == [0.5, 0, 0.5]
    options = {"granularity": "channel", "layout": "config", "round_to": "auto"}
    model = convert(prepare(classifier(), PruneConfig(**options), example_inputs=IMAGE))
    assert model.num_parameters() < classifier().num_parameters()
    assert type(model)(model.config).state_dict().keys() == model.state_dict().keys()
    assert type(model)(model.config).num_parameters() == model.num_parameters()


def test_channels_need_an_image_and_a_model_of_transformers():
    with pytest.raises(UsageError, match="pass example_inputs"):
        prepare(classifier(), PruneConfig(granularity="channel"))
    with pytest.raises(UsageError, match="image classifier of transformers, not Sequential"):
        prepare(network(), PruneConfig(granularity="channel"), example_inputs=IMAGE)


def test_the_converted_model_is_ordinary_for_transformers(tmp_path):
    model = convert(prepare(classifier(), PruneConfig(amount=0.5), example_inputs=IMAGE))
    for name in ("is_quantized", "is_prepared", "quant_config", "example_inputs"):
        assert not hasattr(model, name)
    Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path / "trainer"), report_to="none", use_cpu=True))
    assert copy.deepcopy(model).half().dtype == torch.float16


def test_the_result_is_saved_and_reloaded_as_a_checkpoint_of_this_project(tmp_path):
    config = PruneConfig(amount=0.4, granularity="channel")
    model = convert(prepare(classifier(), config, example_inputs=IMAGE)).eval()
    hf_compress.save(model, tmp_path)
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], tensor)
    assert torch.allclose(reloaded(IMAGE).logits, model(IMAGE).logits, atol=1e-6)


@pytest.mark.parametrize("kind", [StaticQuantConfig, pytest.param(DynamicQuantConfig, marks=pytest.mark.long)])
def test_a_pruned_checkpoint_is_quantized_saved_and_reloaded_by_neural_compressor(kind, tmp_path):
    config = PruneConfig(amount=0.4, granularity="channel")
    hf_compress.save(convert(prepare(classifier(), config, example_inputs=IMAGE)), tmp_path / "pruned")
    pruned = AutoModelForImageClassification.from_pretrained(tmp_path / "pruned").eval()
    images = torch.randn(16, 3, 32, 32)
    graph = export(pruned, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    prepared = prepare(graph, kind())
    prepared(images)
    quantized = convert(prepared)
    assert any("quantize_per_tensor" in str(node.target) for node in quantized.graph.nodes)
    quantized.save((images,), str(tmp_path / "int8"))
    again = quantization.load(str(tmp_path / "int8"))
    with torch.no_grad():
        assert torch.equal(again(images).logits, quantized(images).logits)
        error = (again(images[:3]).logits - pruned(images[:3]).logits).norm() / pruned(images[:3]).logits.norm()
    assert 0 < error < 0.1
