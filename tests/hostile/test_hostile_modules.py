"""Models whose modules are not what a plain chain of layers is, through every way to compress them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress import load, save
from hf_compress.data import load_data
from hf_compress.models.load import LoadedModel, label_options
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.loop import prune_model
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

LABELS = [str(digit) for digit in range(10)]
SPLITS = {"train": "train[:64]", "validation": "train[300:332]", "test": "train[400:432]"}


class OddConfig(PretrainedConfig):
    model_type = "hf_compress_test_odd"

    def __init__(self, kind: str = "plain", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind


class OddModel(PreTrainedModel):
    """Three convolutions of 16 channels, of which the middle two are odd in one way."""

    config_class = OddConfig
    main_input_name = "pixel_values"

    def __init__(self, config: OddConfig):
        super().__init__(config)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = self.second if config.kind == "shared module" else nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, config.num_labels)
        if config.kind in ("tied weights", "shared module"):
            config.tie_word_embeddings = True
            self._tied_weights_keys = {"third.weight": "second.weight"}
        if config.kind == "shared module":
            self._tied_weights_keys["third.bias"] = "second.bias"
        if config.kind == "unused module":
            self.unused = nn.Conv2d(5, 7, 1)
        if config.kind == "unused parameter":
            self.extra = nn.Parameter(torch.ones(16))
        if config.kind == "buffer":
            self.register_buffer("scale", torch.linspace(0.5, 1.5, 16).view(1, 16, 1, 1))
        if config.kind == "buffer that is not saved":
            self.register_buffer("scale", torch.empty(1, 16, 1, 1), persistent=False)
        if config.kind == "parameter of its own":
            self.kernel = nn.Parameter(torch.randn(16, 16, 1, 1) / 4)
        self.post_init()

    def _init_weights(self, module):
        if module is self and self.config.kind == "buffer that is not saved":
            self.scale.copy_(torch.linspace(0.5, 1.5, 16).view(1, 16, 1, 1))

    def forward(self, pixel_values, labels=None, **kwargs):
        kind = self.config.kind
        hidden = self.norm(self.first(pixel_values)).relu()
        hidden = self.second(hidden).relu()
        if hasattr(self, "scale"):
            hidden = hidden * self.scale
        if kind == "parameter of its own":
            hidden = F.conv2d(hidden, self.kernel).relu()
        hidden = self.third(hidden)
        if kind == "changed in place":
            hidden += 1
            hidden.mul_(0.5)
        if kind == "channels by number":
            hidden = hidden[:, :8] + hidden[:, 8:]
            hidden = torch.cat([hidden, hidden], dim=1)
        if kind == "detour through numpy":
            hidden = hidden + float(hidden.detach().numpy().mean())
        if kind == "draws random numbers" and self.training:
            hidden = F.dropout(hidden, 0.5)
        return ImageClassifierOutput(logits=self.head(hidden.relu().mean((2, 3))))


KINDS = [
    "plain",
    "tied weights",
    "shared module",
    "frozen parameters",
    "unused module",
    "unused parameter",
    "buffer",
    "buffer that is not saved",
    "parameter of its own",
    "changed in place",
    "channels by number",
    "detour through numpy",
    "draws random numbers",
]
WAYS = {
    "weights of all layers": PruneSection(
        granularity="weight", scope="global", amount=0.5, iterative=False, recovery={"epochs": 1}
    ),
    "random weights": PruneSection(
        granularity="weight", importance="random", amount=0.5, iterative=False, recovery={"epochs": 0}
    ),
    "channels": PruneSection(amount=0.5, iterative=False, round_to=1, recovery={"epochs": 1}),
    "distillation": DistillSection(epochs=1, learning_rate=1e-3),
}
CASES = [(kind, way) for kind in KINDS for way in WAYS if way != "random weights" or kind == "tied weights"]


@pytest.fixture(scope="module", autouse=True)
def registered():
    AutoConfig.register(OddConfig.model_type, OddConfig)
    AutoModelForImageClassification.register(OddConfig, OddModel)


@pytest.fixture(scope="module")
def data():
    return load_data(DataSection(path="digits", splits=SPLITS), 0)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        pytest.param(
            *case, marks=[pytest.mark.long] if case[1] == "weights of all layers" and case[0] != "plain" else []
        )
        for case in CASES
    ],
)
def test_an_odd_model_is_compressed_and_reloads(kind, way, data, tmp_path):
    torch.manual_seed(0)
    model = OddModel(OddConfig(kind, **label_options(LABELS)))
    if kind == "frozen parameters":
        model.second.requires_grad_(False)
    before = copy.deepcopy(model)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    context = Context(data, processor, None, 0, tmp_path / "work", log=lambda line: None)
    if way == "distillation":
        done = train(model, context, WAYS[way], LoadedModel(copy.deepcopy(model), processor, "teacher"))
        assert torch.equal(model.head.weight, before.head.weight) == (done["best_epoch"] == 0)
    else:
        model = prune_model(model, context, WAYS[way]).model
        check(way, model, before)
    if kind == "frozen parameters" and way == "distillation":
        assert torch.equal(model.second.weight, before.second.weight)
    if kind in ("tied weights", "shared module"):
        assert model.third.weight is model.second.weight
    save(model, tmp_path / "saved", processor)
    again = load(str(tmp_path / "saved")).model
    pixels = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels).logits, model.eval()(pixels).logits)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def check(way, model, before):
    """What was asked for was done."""
    weights = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}.values()
    zeros, all_of_them = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    if way == "channels":
        assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in before.parameters())
    else:
        assert zeros / all_of_them == pytest.approx(0.5, abs=0.01)
