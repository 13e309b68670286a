"""The step `quantize`: int8 simulated as deployed files have it, and training that gets lost accuracy back."""

import copy
from dataclasses import replace

import pytest
import torch
from nets import LAYERS, Net, assert_all_is_over, photos
from torch import nn
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from hf_compress import Recipe, compress
from hf_compress.data import load_data
from hf_compress.data.images import batches, example_input, spread
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.exporting import exportable
from hf_compress.models.students import build_registered
from hf_compress.run.recipe import DataSection
from hf_compress.runtimes import runtime
from hf_compress.sections.base import TrainingConfig, validate
from hf_compress.steps.quantization import Quantize, QuantizeSection
from hf_compress.steps.quantization.simulation import RoundedWeights, int8_simulated, simulate_int8
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

SPLITS = {"train": "train[:600]", "validation": "train[600:900]", "test": "train[900:1100]"}
DIGITS = [str(digit) for digit in range(10)]


def make_uneven(model, factor=50):
    """Let one channel of each block be larger than all others, by weights that make up for it: outputs stay."""
    for block in (block for stage in model.resnet.encoder.stages for block in stage.layers):
        norm, reading = block.layer[0].normalization, block.layer[1].convolution
        with torch.no_grad():
            for made in (norm.weight, norm.bias):
                made[0] *= factor
            reading.weight[:, 0] /= factor


@pytest.fixture(scope="module")
def data():
    return load_data(DataSection(path="digits", splits=SPLITS), 0)


@pytest.fixture(scope="module")
def few(data):
    return replace(data, train=data.train.subset(range(64)), validation=data.validation.subset(range(32)))


@pytest.fixture(scope="module")
def even(data, tmp_path_factory):
    """A network that knows digits."""
    torch.manual_seed(0)
    loaded = build_registered("resnet18", DIGITS, width=0.125, image_size=16)
    context = Context(data, loaded.processor, None, 0, tmp_path_factory.mktemp("work"), log=lambda line: None)
    train(loaded.model, context, TrainingConfig(epochs=4, learning_rate=3e-3))
    return loaded


@pytest.fixture(scope="module")
def uneven(even):
    """The same network as int8 harms it."""
    model = copy.deepcopy(even.model)
    make_uneven(model)
    return replace(even, model=model)


def context_of(loaded, data, folder, log=lambda line: None):
    return Context(data, loaded.processor, None, 0, folder, log=log, resumable=True)


def pixels(data, loaded, count, size):
    return [batch["pixel_values"] for batch in batches(spread(data.train, count), loaded.processor, size)]


def test_weights_are_rounded_to_seven_bits_a_channel():
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -0.5, 0.26], [-0.02, 0.01, 0.0052]])
    rounded = RoundedWeights(layer)
    for _ in range(2):  # and again where the range shrank
        rounded.before(layer, ())
        given = layer.weight
        expected = torch.tensor([[64.0, -32, 17], [-64, 32, 17]]) / 64 * torch.tensor([[1.0], [0.02]])
        assert torch.allclose(given, expected * layer.state_dict()["weight"][0, 0], atol=1e-6)
        given.sum().backward()
        assert torch.equal(layer._parameters["weight"].grad, torch.ones(2, 3)), "straight through"
        layer._parameters["weight"].grad = None
        rounded.after(layer, (), None)
        with torch.no_grad():
            layer.weight.div_(2)


def test_a_simulation_ends_without_a_trace_and_holds_statistics_of_batch_norms():
    model, images = Net(), photos()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model(images[0])["logits"]
    with int8_simulated(model, images) as simulation:
        assert simulation.layers == LAYERS
        assert model.state_dict().keys() == before.keys()
        assert not torch.equal(model(images[0])["logits"], plain)
        learnt = copy.deepcopy(simulation.learnt.state_dict())
        model(images[0] * 9)
        assert all(torch.equal(tensor, learnt[name]) for name, tensor in simulation.learnt.state_dict().items())
        model.train()(images[0] * 9)
        assert not all(torch.equal(tensor, learnt[name]) for name, tensor in simulation.learnt.state_dict().items())
        model.eval()
        with pytest.raises(RuntimeError):
            model(torch.zeros(1, 2, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(images[0])["logits"], plain)
    assert_all_is_over(model)


def test_what_a_layer_makes_is_rounded_behind_its_norm_and_activation():
    conv, norm, last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    class Chain(nn.Sequential):
        def forward(self, pixel_values):
            return super().forward(pixel_values)

    model = Chain(conv, norm, nn.ReLU(), last).eval()
    seen = {}
    with int8_simulated(model, photos()) as simulation:
        for name, module in model.named_children():
            module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: len(o.unique())}))
        model(photos()[0])
    assert len(simulation.ranges) == 3, "the image, what the first layer makes, what the last one makes"
    assert seen["1"] > 256 >= max(seen["2"], seen["3"])


def test_padding_is_not_rounded_again():
    first, last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = first, last

        def forward(self, pixel_values):
            return self.last(nn.functional.pad(self.first(pixel_values).relu(), (1, 1, 1, 1)))

    model = Padded().eval()
    with int8_simulated(model, photos()) as simulation:
        assert len(simulation.ranges) == 4, "what relu() of torch gives is rounded for itself"
    model.forward = lambda pixel_values: last(nn.functional.pad(first(pixel_values), (1, 1, 1, 1)))
    with int8_simulated(model, photos()) as simulation:
        assert len(simulation.ranges) == 3
    model.forward = lambda pixel_values: last(torch.squeeze(input=first(pixel_values)))
    with int8_simulated(model, photos()) as simulation:
        assert len(simulation.ranges) == 4, "named arguments are not followed"


@pytest.mark.parametrize("layers", [
    lambda: [nn.Conv2d(3, 8, 3, stride=2)],
    lambda: [nn.ConvTranspose2d(3, 8, 2, stride=2)],
    lambda: [nn.Flatten(), nn.Linear(3 * 64, 8)],
    lambda: [nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)],
])  # fmt: skip
def test_what_rounded_weights_shift_is_made_good(layers):
    torch.manual_seed(0)
    model = nn.Sequential(*layers()).eval()
    for weight in (each for each in model.parameters() if each.dim() > 1):
        weight.data[torch.rand_like(weight) < 0.2] *= 20
    images = [torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(place)) + 1 for place in range(8)]

    def mean():
        return torch.cat([model(image).transpose(0, 1).flatten(1) for image in images], 1).mean(1)

    with torch.no_grad():
        exact = mean()
        simulation = simulate_int8(model, images, lambda model, batch: model(batch))
        made_good = (mean() - exact).abs().mean()
        simulation.shifts[0].mean.zero_()
        shifted = (mean() - exact).abs().mean()
        simulation.end()
    assert made_good < 0.5 * shifted


def test_without_a_bias_nothing_is_made_good():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU()).eval()
    simulation = simulate_int8(model, photos(), lambda model, batch: model(batch))
    assert len(simulation.layers) == 1 and not simulation.shifts


@pytest.mark.long
def test_it_foretells_the_deployed_file(data, even, tmp_path):
    images = torch.cat(pixels(data, even, 64, 32))
    plain = even.model(pixel_values=images).logits.detach()
    with int8_simulated(even.model, [images]), torch.no_grad():
        simulated = even.model(pixel_values=images).logits
    model, onnx = exportable(even.model, example_input(even.processor)), runtime("onnx")
    onnx.write(replace(model, calibration=images.split(1)), tmp_path / "model.onnx")
    deployed = torch.from_numpy(onnx.load(tmp_path / "model.onnx", 1)(images.numpy())[0])
    off, missed = ((one - deployed).square().mean().item() for one in (plain, simulated))
    assert missed < off / 2


def test_training_gets_back_what_int8_lost(data, even, tmp_path):
    lines, model = [], copy.deepcopy(even.model)
    make_uneven(model, factor=100)
    context = context_of(even, data, tmp_path, lines.append)
    found = Quantize(QuantizeSection(learning_rate=3e-4, epochs=4)).apply(model, context).details["simulated_int8"]
    assert found["layers"] == 21
    lost = found["in_floats"] - found["before"]
    assert lost > 0.1
    assert found["after"] - found["before"] > lost / 2
    assert any("int8 in 21 layers" in line and "in floats" in line for line in lines)
    assert model.state_dict().keys() == even.model.state_dict().keys()


def test_an_interruption_costs_no_range(few, uneven, tmp_path):
    def trained(folder, log=lambda line: None):
        model = copy.deepcopy(uneven.model)
        return model, Quantize(QuantizeSection()).apply(model, context_of(uneven, few, tmp_path / folder, log)).details

    def stop(line):
        if "epoch 2 of" in line:
            raise KeyboardInterrupt

    whole, details = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("killed", stop)
    resumed, again = trained("killed")
    assert again == details
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())


def test_from_the_labels_alone_as_a_control_learns(few, uneven, tmp_path):
    step = Quantize(QuantizeSection(epochs=1))
    alone = step.on_labels()
    assert (step.distils, alone.distils, alone.config.loss, alone.config.epochs) == (True, False, "ce", 1)
    assert alone.apply(copy.deepcopy(uneven.model), context_of(uneven, few, tmp_path)).details["epochs"]


@pytest.mark.long
def test_a_recipe_prunes_trains_for_int8_and_deploys(tmp_path):
    steps = [
        {"finetune": {"epochs": 4, "learning_rate": 3e-3}},
        {"prune": {"iterative": False, "amount": 0.25, "round_to": 1, "recovery": {"epochs": 1}}},
        {"quantize": {"learning_rate": 3e-4}},
    ]
    data = {"path": "digits", "splits": SPLITS}
    recipe = {"student": {"model": "resnet18", "width": 0.125, "image_size": 16}, "data": data}
    recipe |= {"steps": steps, "deploy": [{"to": "onnx", "int8": True}], "measure": {"repeats": 3, "batch_size": 2}}
    made = compress(Recipe.from_dict(recipe), tmp_path / "run", log=lambda line: None)
    last, (file,) = made.report["rows"][-1], made.report["deployed"]
    assert last["stage"] == "3 quantize"
    assert file["float_layers"] == []
    assert abs(file["quality"]["accuracy"] - last["quality"]["accuracy"]) < 0.03
    loaded = AutoModelForImageClassification.from_pretrained(made.folder, trust_remote_code=True)
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert "with int8 simulated in 21 layers, validation: " in (made.folder / "README.md").read_text()


def test_a_transformer_is_trained_for_int8(few, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10))
    loaded = replace(build_registered("resnet18", DIGITS, width=0.125, image_size=16), model=model)
    section = QuantizeSection(epochs=1, loss="ce", precision="bf16")
    details = Quantize(section).apply(model, context_of(loaded, few, tmp_path)).details
    assert details["simulated_int8"]["layers"] == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in model.modules())


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(UsageError, match=r"int8 is simulated within the layers of the model: leave out compile"):
        validate(QuantizeSection, {"compile": True})
    with pytest.raises(RunError, match=r"Flatten has no convolution and no linear layer.*leave out the step"):
        Quantize(QuantizeSection()).apply(nn.Flatten(), None)
