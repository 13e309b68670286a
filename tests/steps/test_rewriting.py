"""The step `rewrite` on tiny models of real architectures and real digits."""

import copy

import pytest
import torch
from torch import nn

from hf_compress.checkpoint.rewrites import Rewritten, record_rewrites
from hf_compress.data import load_data
from hf_compress.data.images import Collator
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.sections.base import validate
from hf_compress.sections.data import DataSection
from hf_compress.steps.rewriting import REWRITINGS, Rewrite, RewriteConfig, Rewriting, Unsuitable, register_rewrite
from hf_compress.steps.rewriting.measuring import Proposal
from hf_compress.steps.rewriting.rewriting import within_budget
from hf_compress.training.context import Context
from tests.families import FAMILIES

BLOCK = "resnet.encoder.stages.0.layers.0.layer.{}.convolution"
STEM = "resnet.embedder.embedder.convolution"


def family(name):
    return next(each for each in FAMILIES if each.name == name)


@pytest.fixture(scope="module")
def data():
    splits = {"train": "train[:64]", "validation": "train[64:96]", "test": "train[96:112]"}
    found = load_data(DataSection(path="digits", splits=splits), seed=0)
    found.test = None  # a step that looks at the test images fails
    return found


@pytest.fixture
def apply(data, tmp_path):
    def apply(model, processor, **options):
        lines = []
        context = Context(data, processor, None, 0, tmp_path, log=lines.append)
        result = Rewrite(validate(RewriteConfig, {"images": 32, **options})).apply(model, context)
        return result.model, result.details, "\n".join(lines)

    return apply


@pytest.fixture(scope="module")
def resnet(data):
    """A tiny ResNet whose batch norms know the digits."""
    model, processor = family("resnet").build(), family("resnet").processor()
    batch = Collator(processor)([data.train[index] for index in range(64)])
    torch.optim.swa_utils.update_bn([batch["pixel_values"]], model)
    return model.eval(), processor


def error(new, old):
    return ((new - old).norm() / old.norm()).item()


def test_errors_and_savings_are_those_of_the_model(resnet, apply, data):
    """The figures of the report against a computation by hand, from the layer itself and the logits."""
    model, processor = resnet
    pixels = Collator(processor)([data.validation[index] for index in range(32)])["pixel_values"]
    image, name = pixels[:1], STEM
    new, details, log = apply(copy.deepcopy(model), processor, kind="separable", layers=[name])
    (row,) = details["rewritten_layers"].values()
    with torch.no_grad():
        old_layer, new_layer = model.get_submodule(name), new.get_submodule(name)
        assert row["output_error"] == pytest.approx(error(new_layer(pixels), old_layer(pixels)), rel=1e-3)
        logits, before = new(pixel_values=pixels).logits, model(pixel_values=pixels).logits
    assert min(details["logits_error"].values()) == pytest.approx(error(logits, before), rel=1e-3)
    assert details["top1_agreement"] == (logits.argmax(1) == before.argmax(1)).float().mean().item()
    assert row["macs"] == [16 * 16 * 16 * 3 * 49, 16 * 16 * 3 * (49 + 16)]
    assert row["parameters"] == [16 * 3 * 49, 3 * 49 + 16 * 3]
    assert row["weights"] == [[3, 1, 7, 7], [16, 3, 1, 1]]
    assert details["macs"] == [count_macs(model, image), count_macs(new, image)]
    assert details["parameters"] == [count_parameters(model), count_parameters(new)]
    assert f"'{name}': MACs 602112 -> 49920" in log


@pytest.mark.parametrize(
    ("name", "options", "rewritten", "stays"),
    [
        ("resnet", {"kind": "separable"}, STEM, {"1x1 kernel": 7}),
        ("resnet", {"kind": "factorize", "energy": 0.5}, STEM, {"1x1 kernel": 7}),
        ("resnet", {"kind": "strided_pool"}, "resnet.embedder.pooler", {}),
        ("convnext", {"kind": "activations"}, "convnext.encoder.stages.0.layers.0.act", {}),
        ("convnext", {"kind": "factorize", "energy": 0.3}, None, {"depthwise already": 3}),
        ("mobilenet_v2", {"kind": "separable"}, "mobilenet_v2.conv_stem.first_conv.convolution", {"depthwise": 17}),
        ("mobilenet_v2", {"kind": "factorize", "energy": 0.5}, "mobilenet_v2.conv_stem.first_conv.convolution", {}),
        ("mobilenet_v2", {"kind": "activations"}, "mobilenet_v2.conv_1x1.activation", {}),
        ("efficientnet", {"kind": "activations", "to": "relu6"}, "efficientnet.embeddings.activation", {}),
    ],
)
def test_architectures(name, options, rewritten, stays, apply):
    model, details, log = apply(family(name).build(), family(name).processor(), **options)
    records = record_rewrites(model)
    assert details["rewritten_layers"].keys() == records.keys()
    assert rewritten is None or rewritten in records
    for reason, count in stays.items():
        assert sum(reason in why for why in details["skipped_layers"].values()) == count
        assert reason in log
    saves = REWRITINGS.get(options["kind"]).saves_macs
    assert details["macs"][1] < details["macs"][0] if saves else details["macs"][1] >= details["macs"][0]
    assert all(error >= 0 for error in details["logits_error"].values())


def test_gates_become_hard_sigmoids_and_the_rest_relu(apply):
    efficientnet = family("efficientnet")
    model, _, _ = apply(efficientnet.build(), efficientnet.processor(), kind="activations")
    kinds = {name: type(module[0]) for name, module in model.named_modules() if isinstance(module, Rewritten)}
    gates = {name for name, kind in kinds.items() if kind is nn.Hardsigmoid}
    assert gates and all(name.endswith("act_expand") for name in gates)
    assert {kinds[name] for name in kinds.keys() - gates} == {nn.ReLU}
    assert not any(isinstance(module, nn.SiLU | nn.Sigmoid) for module in model.modules())


class PoolsByFunction(nn.Module):
    """A classifier before which a module called `own` pools by a function."""

    class Own(nn.Module):
        def forward(self, image):
            return nn.functional.max_pool2d(image, 2)

    def __init__(self, classifier):
        super().__init__()
        self.own, self.classifier = self.Own(), classifier

    def forward(self, pixel_values):
        return self.classifier(pixel_values=self.own(pixel_values))


def test_functions_are_out_of_reach_and_named(resnet, apply):
    model, processor = PoolsByFunction(copy.deepcopy(resnet[0])).eval(), resnet[1]
    _, details, _ = apply(model, processor, kind="strided_pool")
    assert details["skipped_layers"] == {"own": "calls max_pool2d as a function: only modules can be replaced"}
    assert list(details["rewritten_layers"]) == ["classifier.resnet.embedder.pooler"]
    with pytest.raises(RunError, match=r"can rewrite none of the 1 layers: 'own' calls max_pool2d as a function"):
        apply(model, processor, kind="strided_pool", layers=["own"])


def test_patterns_and_exclusions(resnet, apply):
    model, processor = resnet
    _, details, _ = apply(
        copy.deepcopy(model),
        processor,
        kind="factorize",
        energy=0.5,
        layers=["resnet.encoder.*"],
        exclude=["*.stages.0.*"],
    )
    assert STEM not in details["rewritten_layers"] and STEM not in details["skipped_layers"]
    assert details["skipped_layers"][BLOCK.format(1)] == "excluded by the recipe"
    says = r"'layers' pattern 'resnet\.embeder\.\*' matches no layer.*nearest: 'resnet\.embedder"
    with pytest.raises(RunError, match=says):
        apply(copy.deepcopy(model), processor, kind="separable", layers=["resnet.embeder.*"])
    with pytest.raises(RunError, match="'exclude' pattern"):
        apply(copy.deepcopy(model), processor, kind="separable", exclude=["nothing"])
    with pytest.raises(RunError, match=r"can rewrite none.*is ReLU already"):
        apply(copy.deepcopy(model), processor, kind="activations")
    with pytest.raises(RunError, match="has no pooling modules"):
        apply(family("convnext").build(), family("convnext").processor(), kind="strided_pool")


def test_a_factorization_that_saves_nothing_stays(resnet, apply):
    with pytest.raises(RunError, match=r"saves no MACs: \d+ before, \d+ after"):
        apply(copy.deepcopy(resnet[0]), resnet[1], kind="factorize", energy=1.0)


def test_a_budget_takes_no_more_layers_than_it_needs(resnet, apply):
    model, processor = resnet
    _, everything, _ = apply(copy.deepcopy(model), processor, kind="separable")
    least = everything["macs"][1] / everything["macs"][0]
    _, some, _ = apply(copy.deepcopy(model), processor, kind="separable", budget={"macs": (1 + least) / 2})
    assert some["budget_reached"] and some["macs"][1] <= (1 + least) / 2 * some["macs"][0]
    assert 0 < len(some["rewritten_layers"]) < len(everything["rewritten_layers"])
    assert all(row["logits_error"] > 0 for row in some["rewritten_layers"].values())
    _, all_of_it, log = apply(copy.deepcopy(model), processor, kind="separable", budget={"macs": least / 2})
    assert all_of_it["budget_reached"] is False and "of the MACs were to go" in log.splitlines()[-1]
    assert all_of_it["missed"]["asked"] == pytest.approx(1 - least / 2)
    assert all_of_it["missed"]["reached"] == pytest.approx(1 - least, abs=1e-3)
    assert len(all_of_it["rewritten_layers"]) == len(everything["rewritten_layers"])


def test_the_choice_for_a_budget_by_hand():
    def candidate(name, saved, error):
        return Proposal((name,), nn.Identity(), None, macs=(saved, 0), logits_error=error)

    given = [candidate("dear", 10, 0.9), candidate("cheap", 10, 0.1), candidate("large", 60, 1.2)]
    chosen = lambda fraction: [each.names[0] for each in within_budget(given, 100, fraction)]  # noqa: E731
    assert chosen(0.95) == ["cheap"]
    assert chosen(0.5) == ["large"]  # `cheap` comes first, but `large` alone is enough
    assert chosen(0.3) == ["cheap", "large"]
    assert chosen(0.1) == ["cheap", "large", "dear"]


def test_batch_norms_get_new_statistics_where_that_helps(resnet, apply):
    model, processor = resnet
    new, details, _ = apply(copy.deepcopy(model), processor, kind="separable")
    norm = "resnet.embedder.embedder.normalization"
    changed = not torch.equal(new.get_submodule(norm).running_mean, model.get_submodule(norm).running_mean)
    errors = details["logits_error"]
    assert changed == (errors["batch_norm_reestimated"] < errors["rewritten"])


def test_weights_in_two_places_stay(resnet, apply):
    model, processor = copy.deepcopy(resnet[0]), resnet[1]
    model.again = model.get_submodule(STEM)
    _, details, _ = apply(model, processor, kind="separable")
    assert details["skipped_layers"][STEM] == "shares its weights with 'again'"


def test_a_layer_whose_weight_the_architecture_reads_stays(apply):
    vit = family("vit")
    with pytest.raises(RunError, match=r"patch_embeddings\.projection' cannot be replaced, the model does not run"):
        apply(vit.build(), vit.processor(), kind="separable")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "seperable"}, "unknown rewrite 'seperable'; did you mean 'separable'?"),
        ({"kind": "separable", "energy": 0.5}, "energy belongs to kind 'factorize'"),
        ({"kind": "factorize", "to": "relu6"}, "to belongs to kind 'activations'"),
        ({"kind": "activations", "budget": {"macs": 0.5}}, "saves no MACs"),
        ({"kind": "separable", "budget": {"parameters": 0.5}}, "unknown key 'budget.parameters'"),
        ({}, "'kind' is missing"),
    ],
)
def test_wrong_options_are_one_sentence(options, sentence):
    with pytest.raises(UsageError) as caught:
        validate(RewriteConfig, options)
    assert sentence in str(caught.value)


def test_a_kind_of_ones_own(resnet, apply):
    """What CONTRIBUTING shows: registered, applied, recorded."""

    @register_rewrite("halve_kernel")
    class HalveKernel(Rewriting):
        subject = "convolutions"

        def concerns(self, module):
            return isinstance(module, nn.Conv2d)

        def replacement(self, layer, config):
            if layer.module.kernel_size != (7, 7):
                raise Unsuitable("has no 7x7 kernel")
            new = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
            new.weight.data = layer.module.weight.data[:, :, 2:5, 2:5].clone()
            return [new]

    try:
        new, details, _ = apply(copy.deepcopy(resnet[0]), resnet[1], kind="halve_kernel")
    finally:
        del REWRITINGS._entries["halve_kernel"]
    assert list(details["rewritten_layers"]) == [STEM]
    assert record_rewrites(new)[STEM]["kind"] == "halve_kernel"
