"""Int8 files: layers that bear no int8 stay in floats; NNCF quantises OpenVINO's."""

import numpy as np
import pytest
import torch
from torch import nn

from hf_compress.device.opening import open_onnx
from hf_compress.runtimes import Exportable, runtime
from hf_compress.runtimes.int8.fallback import BOUND, divergence, write_bearable


class Uneven(nn.Module):
    """`narrow` reads channels of about 1 beside one of about 10,000, which it leaves out."""

    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.even = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 4, 1, bias=False)
        self.narrow = nn.Conv2d(4, 4, 1, bias=False)
        self.wide.weight.data[0] *= factor
        self.narrow.weight.data[:, 0] = 0

    def forward(self, pixel_values):
        return self.narrow(self.wide(self.even(pixel_values).relu())).mean(dim=(2, 3))


def written(factor, name, folder, brightness=1.0):
    """Write a model in int8; return what is told, and the file's answers beside the model's, to 40 images.

    One image, the sixth, is `brightness` times as bright as the others.
    """
    model, chosen = Uneven(factor).eval(), runtime(name)
    shades = (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(40))
    images = [shade * (seed % 4 + 1) / 4 for seed, shade in enumerate(shades)]
    images[5] *= brightness
    file = folder / f"model{chosen.suffix}"
    told = chosen.write(Exportable(model, ["logits"], images[0], {}, images), file)
    call = chosen.load(file, 1)
    with torch.no_grad():
        asked = torch.cat([model(image) for image in images]).numpy()
    return told, np.concatenate([call(image.numpy())[0] for image in images]), asked


def error(found, asked):
    return np.square(found - asked).mean() / np.square(asked - asked.mean(axis=0)).mean()


def quantized_layers(file):
    """Return how many of a file's convolutions read int8."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(file).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    inputs = [made.get(node.input[0]) for node in graph.node if node.op_type == "Conv"]
    return inputs.count("DequantizeLinear"), len(inputs)


def test_layers_that_int8_damages_stay_in_floats(tmp_path):
    told, found, asked = written(1e4, "onnx", tmp_path)
    assert told["int8_error"] <= BOUND
    assert error(found, asked) <= 2 * BOUND
    assert len(told["float_layers"]) == 2, "the one that makes both channels, and the one that reads them"
    assert quantized_layers(tmp_path / "model.onnx") == (2, 3), "one of them reads what an int8 layer makes"


def test_where_int8_does_no_damage_every_layer_is_int8(tmp_path):
    told, found, asked = written(1.0, "onnx", tmp_path)
    assert told["float_layers"] == []
    assert told["int8_error"] == pytest.approx(error(found[::2], asked[::2]), rel=1e-3), "40 images: every second"
    assert quantized_layers(tmp_path / "model.onnx") == (3, 3)
    assert open_onnx(tmp_path / "model.onnx", 1)(np.zeros((2, 3, 8, 8), np.float32))[0].shape == (2, 4)


def test_openvino_computes_int8(tmp_path):
    pytest.importorskip("nncf")
    openvino = pytest.importorskip("openvino")
    _, found, asked = written(1.0, "openvino", tmp_path)
    assert 0 < error(found, asked) < BOUND
    operations = openvino.Core().read_model(tmp_path / "model.xml").get_ops()
    assert [node.get_type_name() for node in operations].count("FakeQuantize") >= 3
    constants = [node.get_data() for node in operations if node.get_type_name() == "Constant"]
    largest = [int(np.abs(values.astype(int)).max()) for values in constants if values.dtype == np.int8]
    assert largest and max(largest) <= 64, "pairs of products of eight bits overflow where there is no VNNI"


def weights_of_litert(file):
    """Return the sizes of a file's weights that are stored in int8 for each channel, sorted."""
    from ai_edge_litert.interpreter import Interpreter

    tensors = [tensor for tensor in Interpreter(str(file)).get_tensor_details() if tensor["dtype"] == np.int8]
    return sorted(tensor["shape"].prod() for tensor in tensors if len(tensor["quantization_parameters"]["scales"]) > 1)


def test_litert_computes_int8_and_takes_and_gives_floats(tmp_path):
    pytest.importorskip("litert_torch", reason="`make test-litert` has an environment for it")
    from ai_edge_litert.interpreter import Interpreter

    told, found, asked = written(1.0, "litert", tmp_path)
    assert told["float_layers"] == []
    assert told["int8_error"] == pytest.approx(error(found[::2], asked[::2]), rel=1e-3)
    assert 0 < told["int8_error"] < BOUND
    file = Interpreter(str(tmp_path / "model.tflite"))
    ends = [*file.get_input_details(), *file.get_output_details()]
    assert [end["dtype"] for end in ends] == [np.float32, np.float32]
    assert weights_of_litert(tmp_path / "model.tflite") == [4 * 4, 4 * 8, 8 * 3 * 3 * 3]


def test_layers_of_litert_that_int8_damages_stay_in_floats(tmp_path):
    pytest.importorskip("litert_torch", reason="`make test-litert` has an environment for it")
    told, found, asked = written(1e4, "litert", tmp_path)
    assert told["int8_error"] == pytest.approx(error(found[::2], asked[::2]), rel=1e-3)
    assert told["int8_error"] <= BOUND
    assert len(told["float_layers"]) == 2
    assert all(name.startswith("CONV_2D ") for name in told["float_layers"])
    assert weights_of_litert(tmp_path / "model.tflite") == [8 * 3 * 3 * 3], "the first layer bears it"


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("onnx", "onnxruntime"),
        ("openvino", "nncf"),
        pytest.param("executorch", "executorch", marks=pytest.mark.long),
        ("litert", "litert_torch"),
    ],
)
def test_no_image_is_cut_off_that_is_brighter_than_the_others(name, needed, tmp_path):
    pytest.importorskip(needed)
    _, found, asked = written(1.0, name, tmp_path, brightness=8.0)
    assert np.abs(found[5] - asked[5]).max() < 0.05 * np.abs(asked[5]).max()


@pytest.mark.parametrize("bearable", [3, 0])
def test_as_few_layers_as_it_takes_stay_in_floats_in_the_order_of_their_damage(bearable):
    damage = {"a": 1.0, "b": 8.0, "c": 2.0, "d": 4.0}
    units, now = {name: [name, f"{name} bias"] for name in damage}, []

    def write(in_floats):
        now[:] = in_floats

    told = write_bearable(units, write, lambda: sum(damage[name] for name in damage if name not in now), bearable)
    stays = {3: ["b", "d"], 0: ["b", "d", "c", "a"]}[bearable]
    assert told == {"int8_error": bearable, "float_layers": stays}
    assert now == [operation for name in stays for operation in units[name]]


def test_what_is_not_finite_is_the_worst_and_goes_back_to_floats():
    images = [np.full((1, 1), value, np.float32) for value in (1.0, 2.0)]
    in_floats = []
    broken = lambda image: [image * (1 if "bad" in in_floats else np.nan)]  # noqa: E731
    error = divergence(["logits"], lambda image: [image], lambda: broken, images)
    assert error() == np.inf
    told = write_bearable(
        {"bad": ["bad"], "good": ["good"]}, lambda names: in_floats.__setitem__(slice(None), names), error
    )
    assert told["int8_error"] == 0 and "bad" in told["float_layers"]


class Attention(nn.Module):
    """A convolution with a norm's worth of bias, an attention on its pixels, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.residual = nn.Conv2d(3, 16, 2, stride=2), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.to_all, self.back, self.head = nn.LayerNorm(16), *(nn.Linear(16, size) for size in (48, 16, 5))

    def forward(self, pixel_values):
        pixels = self.patches(pixel_values)
        pixels = pixels + self.residual(pixels)
        tokens = self.residual(pixels).flatten(2).mT
        asked, known, told = self.to_all(self.norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.back((asked @ known.mT).softmax(-1) @ told)
        return self.head(tokens.mean(1))


def test_around_linear_layers_all_stays_in_floats_and_between_convolutions_nothing(tmp_path):
    onnx = pytest.importorskip("onnx")
    images = [torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(16)]
    model, file = Attention().eval(), tmp_path / "model.onnx"
    told = runtime("onnx").write(Exportable(model, ["logits"], images[0], {}, images), file)
    graph = onnx.load(file).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    reads = [(node.op_type, [makers.get(name) for name in node.input if name not in weights]) for node in graph.node]
    whole = ["DequantizeLinear"] * 2
    assert [read[:2] for kind, read in reads if kind in ("Conv", "Gemm")] == [whole] * 4
    products = [read for kind, read in reads if kind == "MatMul"]
    assert sorted(read == whole for read in products) == [False, False, True, True], "two linear layers, two products"
    rounded = {kind for kind, read in reads if read[:1] == ["DequantizeLinear"]}
    assert not rounded & {"Softmax", "LayerNormalization"}
    additions = [read for kind, read in reads if kind == "Add"]
    assert whole in additions, "the residual of the convolutions"
    assert all("DequantizeLinear" not in read for read in additions if read != whole)
    assert told["float_layers"] == [] and told["int8_error"] < 0.01
