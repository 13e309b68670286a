"""Losses between layers: the numbers, the layers they name, and what is trained between these."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from hf_compress.data import load_data
from hf_compress.ground.errors import UsageError
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import Answer, as_map, layer_outputs, of_one_size
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import LOSSES, DistillSection, LossConfig
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.trainer import DistillationTrainer

LABELS = [str(digit) for digit in range(10)]
STUDENT_LAYER, TEACHER_LAYER = "resnet.encoder.stages.2", "mobilenet_v2.layer.5"
SPLITS = {"train": "train[:64]", "validation": "train[300:332]", "test": "train[400:432]"}


def resnet(width=0.125):
    torch.manual_seed(0)
    return build_registered("resnet18", LABELS, width=width, image_size=32)


def mobilenet():
    torch.manual_seed(1)
    return build_registered("mobilenet_v2", LABELS, width=0.2, image_size=32)


def maps(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def value(name, student, teacher):
    return LOSSES.get(name).function(torch.tensor(student), torch.tensor(teacher), None).item()


def test_hints_is_the_mean_squared_error():
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4) * 2
    total = sum((a - b) ** 2 for a, b in zip(student.flat, teacher.flat, strict=True))
    assert value("hints", student, teacher) == pytest.approx(total / student.size)


def test_attention_compares_normalised_sums_of_squares():
    student, teacher = maps(2, 3, 2, 2), maps(2, 5, 2, 2)
    total = 0.0
    for image in range(2):
        for_student, for_teacher = [], []
        for features, attended in ((student, for_student), (teacher, for_teacher)):
            energy = [sum(channel[y, x] ** 2 for channel in features[image]) for y in range(2) for x in range(2)]
            attended += [one / sum(other**2 for other in energy) ** 0.5 for one in energy]
        total += sum((a - b) ** 2 for a, b in zip(for_student, for_teacher, strict=True))
    assert value("attention", student, teacher) == pytest.approx(total / 8)


def test_the_larger_map_is_averaged_down():
    small, large = torch.tensor(maps(1, 2, 2, 2)), torch.tensor(maps(1, 2, 4, 4))
    first, second = of_one_size(large, small)
    assert second is small
    assert first[0, 1, 1, 0].item() == pytest.approx(large[0, 1, 2:, :2].mean().item())


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_tokens_become_a_square_map_without_class_and_register_tokens(extra):
    tokens = torch.randn(2, extra + 9, 4)
    assert torch.equal(as_map(tokens, "x")[1, :, 2, 1], tokens[1, extra + 7])


def test_what_is_no_map_is_refused():
    assert as_map(torch.randn(2, 7), "x").shape == (2, 7, 1, 1)
    with pytest.raises(UsageError, match=r"layer 'x' gives the shape \(2, 15, 3\)"):
        as_map(torch.randn(2, 15, 3), "x")


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks]


def test_nothing_of_the_recording_is_left_behind_even_after_an_error():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with layer_outputs(model, ["0", "1"]) as found:
        output = model(torch.randn(4, 2))
        assert len(hooks(model)) == 2
    assert torch.equal(found["1"], output)
    assert found["0"].shape == (4, 3)
    with pytest.raises(RuntimeError), layer_outputs(model, ["0"]):
        model(torch.randn(4, 5))
    assert not hooks(model)


def context(loaded, folder, teacher):
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    return Context(data, loaded.processor, teacher, 0, folder, log=lambda line: None)


def distil(student, teacher, folder, precision="fp32", **options):
    config = DistillSection(epochs=2, learning_rate=3e-3, precision=precision, **options)
    return train(student.model, context(student, folder, teacher), config, teacher)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_learns_from_layers_of_another_architecture(tmp_path, precision):
    student, teacher = resnet(), mobilenet()
    names, before = set(student.model.state_dict()), student.model.resnet.encoder.stages[0].layers[0].layer[0]
    before = before.convolution.weight.detach().clone()
    frozen = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    losses = [
        {"loss": "hints", "layers": {STUDENT_LAYER: TEACHER_LAYER, "resnet.encoder.stages.3": "mobilenet_v2"}},
        {"loss": "attention", "layers": {STUDENT_LAYER: TEACHER_LAYER}, "weight": 10},
    ]
    details = distil(student, teacher, tmp_path, precision, losses=losses)
    assert details["epochs"][1]["training_loss"] < details["epochs"][0]["training_loss"]
    assert set(student.model.state_dict()) == names
    after = student.model.resnet.encoder.stages[0].layers[0].layer[0].convolution.weight
    assert not torch.equal(before, after)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in teacher.model.state_dict().items())
    assert not hooks(student.model)
    assert not hooks(teacher.model)


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": index}


def test_projectors_are_trained_as_if_they_belonged_to_the_student(tmp_path):
    teacher, options = mobilenet().model.eval(), {"momentum": 0.0, "lr": 0.05}
    config = LossConfig(losses=[{"loss": "hints", "layers": {STUDENT_LAYER: TEACHER_LAYER}}, {"loss": "kl"}])
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=3, per_device_train_batch_size=8, lr_scheduler_type="constant", use_cpu=True,
        max_grad_norm=0, report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = DistillationTrainer(
        resnet().model, arguments, train_dataset=Rows(), teacher=teacher, loss_config=config,
        optimizer_cls_and_kwargs=(torch.optim.SGD, options),
    )  # fmt: skip
    trainer.create_optimizer()
    (trained,) = trainer.criterion.projectors.values()
    projector = copy.deepcopy(trained)
    trainer.train()
    assert not torch.equal(trained.weight, projector.weight)

    student = resnet().model.train()
    together = torch.optim.SGD([*student.parameters(), *projector.parameters()], **options)
    kl = LOSSES.get("kl").function
    for _ in range(3):
        with layer_outputs(student, [STUDENT_LAYER]) as mine, layer_outputs(teacher, [TEACHER_LAYER]) as theirs:
            logits, wanted = student(Rows().images).logits, teacher(Rows().images).logits.detach()
        pooled = of_one_size(mine[STUDENT_LAYER], theirs[TEACHER_LAYER].detach())
        loss = (projector(pooled[0]) - pooled[1]).square().mean() + kl(logits, wanted, None, config.terms[1])
        together.zero_grad()
        loss.backward()
        together.step()
    assert torch.allclose(trained.weight, projector.weight, atol=1e-4)
    for ours, expected in zip(trainer.model.parameters(), student.parameters(), strict=True):
        assert torch.allclose(ours, expected, atol=1e-3)


def test_equal_channels_need_no_projector():
    model, image = resnet().model, torch.randn(1, 3, 32, 32)
    criterion = DistillationCriterion(
        LossConfig(loss="hints", layers={STUDENT_LAYER: STUDENT_LAYER}), CLASSIFICATION.compare
    )
    teacher = resnet().model.eval()
    criterion.match_layers(model, teacher, lambda: (model(pixel_values=image), teacher(pixel_values=image)))
    assert not criterion.projectors
    answer = Answer({"logits": torch.zeros(1, 10)}, {STUDENT_LAYER: torch.ones(1, 4, 2, 2)})
    assert criterion(answer, answer, {}) == 0


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (
            {"resnet.encoder.stage.1": TEACHER_LAYER},
            r"'resnet.encoder.stage.1', which the student .* mean 'resnet.enc",
        ),
        ({STUDENT_LAYER: "mobilenet_v2.layers.5"}, r"the teacher \(MobileNetV2.* did you mean 'mobilenet_v2.layer.5'"),
        ({STUDENT_LAYER: "unused"}, "layer 'unused' takes no part in a forward pass"),
    ],
)
def test_a_wrong_layer_is_named_before_the_training(tmp_path, layers, says):
    student, teacher = resnet(), mobilenet()
    teacher.model.unused = nn.Linear(2, 2)
    before = student.model.classifier[1].weight.detach().clone()
    with pytest.raises(UsageError, match=says):
        distil(student, teacher, tmp_path, loss="hints", layers=layers)
    assert torch.equal(student.model.classifier[1].weight, before)


def transformer(width):
    torch.manual_seed(width)
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, id2label=dict(enumerate(LABELS)))
    return LoadedModel(ViTForImageClassification(config), resnet().processor, "vit")


@pytest.mark.parametrize(("make", "layer"), [(resnet, STUDENT_LAYER), (lambda: transformer(16), None)])
def test_tokens_of_a_transformer_can_be_learnt(tmp_path, make, layer):
    student, teacher = make(), transformer(24)
    names = {name for name, _ in teacher.model.named_modules()}
    block = next(name for name in ("vit.encoder.layer.0", "vit.layers.0", "vit.encoder.layers.0") if name in names)
    layers = {layer or block: block}
    first, second = distil(student, teacher, tmp_path, loss="hints", layers=layers)["epochs"]
    assert second["training_loss"] < first["training_loss"]
