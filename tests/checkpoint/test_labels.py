"""Names of classes: how they match, and what happens where a teacher and a student have them in other orders."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, TimmWrapperConfig, TrainingArguments

from hf_compress.checkpoint.labels import among, label_names, order_of, positions, set_labels
from hf_compress.data import load_data
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground.errors import UsageError
from hf_compress.models.ensemble import as_one
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection, LossConfig
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.trainer import DistillationTrainer

NUMBERS, DEFAULTS = ["0", "1", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("names", "order", "expected"),
    [
        (["cat", "dog"], ["dog", "cat"], [1, 0]),
        (["Cat", "hot_dog"], ["hot dog", "cat"], [1, 0]),
        (["A", "a"], ["a", "A"], [1, 0]),
        (["A", "a"], ["A", "a"], [0, 1]),
        (["not ok", "not_ok", "ok"], ["OK", "not_ok", "not ok"], [2, 1, 0]),
        (["crane", "crane"], ["crane", "crane"], [0, 1]),
        (["A", "a"], ["A", "A "], None),
        (["a", "b"], ["A", "a"], None),
        (["A", "a"], ["a", "b"], None),
        (["crane", "crane"], ["crane", "Crane"], None),
        (["crane", "bus"], ["crane", "crane"], None),
        (["a", "b"], ["a", "b", "c"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["10", "2"], ["LABEL_0", "LABEL_1"], None),
    ],
)
def test_exact_names_match_first_and_folded_ones_where_they_are_unique(names, order, expected):
    assert positions(names, order) == expected


IMAGENET = [
    "tench, Tinca tinca",
    "French horn, horn",
    "crane",
    "crane",
    "maillot",
    "maillot, tank suit",
    "Sun_glasses",
]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["French horn", "tench"], [1, 0]),
        (["french_horn", "Tinca Tinca"], [1, 0]),
        (["tench, Tinca tinca", "sun glasses"], [0, 6]),
        (["maillot", "tank suit"], [4, 5]),
        (["tench", "crane"], None),
        (["tench", "Tinca tinca"], None),
        (["tench", "pike"], None),
        (["ten"], None),
        (["horn, French"], None),
        ([], None),
        (IMAGENET, None),
    ],
)
def test_classes_are_found_among_more_where_each_is_there_alone(names, expected):
    assert among(names, IMAGENET) == expected


@pytest.mark.parametrize(
    ("names", "more", "expected"),
    [
        (["A", "a"], ["b", "a", "A"], [2, 1]),
        (["A"], ["a ", "A", "a"], [1]),
        (["A"], ["a ", "a"], None),
        (["0", "1"], ["0", "1", "2"], None),
        (["LABEL_0"], ["LABEL_0", "b"], None),
        (["3", "7"], list("0123456789"), [3, 7]),
    ],
)
def test_case_decides_among_more_only_where_it_must_and_mere_numbers_are_no_names(names, more, expected):
    assert among(names, more) == expected


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (["dog", "cat"], ["cat", "dog"], [1, 0]),
        (["b", "c", "a"], ["a", "b", "c"], [2, 0, 1]),
        (["2", "0", "1"], NUMBERS, [1, 2, 0]),
        (["bus, coach", "dog, hound", "cat"], ["dog", "bus"], [1, 0]),
        (["cat", "dog"], ["Cat", "Dog"], None),
        (DEFAULTS, ["a", "b", "c"], None),
        (["a", "b", "c"], NUMBERS, None),
        (DEFAULTS, NUMBERS, None),
        (None, ["a", "b"], None),
        (["a", "b"], None, None),
    ],
)
def test_the_order_between_teacher_and_student_goes_by_names_and_by_number_where_there_are_none(
    teacher, student, expected
):
    assert order_of(teacher, student) == expected


@pytest.mark.parametrize("teacher", [["bus", "lorry"], ["cat", "cow", "bee"], ["cat"], DEFAULTS, ["1", "2"]])
def test_other_classes_are_refused(teacher):
    with pytest.raises(UsageError, match=r"labels of the teacher .* are not those of the student"):
        order_of(teacher, ["cat", "dog"])


@pytest.mark.parametrize(
    "config",
    [
        PretrainedConfig(num_labels=2, problem_type="multi_label_classification"),
        PretrainedConfig(num_labels=3, problem_type="regression"),
        PretrainedConfig(id2label={"0": "a", "1": "b"}, label2id={"x": 7}),
        PretrainedConfig(id2label={1: "b", 0: "a"}),
        TimmWrapperConfig(
            num_labels=2,
            label_names=["a", "b"],
            label_descriptions={"a": "an a"},
            pretrained_cfg={"label_names": ["a", "b"], "label_descriptions": {"a": "an a"}},
            problem_type="multi_label_classification",
        ),
    ],
)
def test_a_config_has_its_new_labels_wherever_it_keeps_labels(config, tmp_path):
    set_labels(config, ["bus", "lorry"])
    config.save_pretrained(tmp_path)
    again = type(config).from_pretrained(tmp_path)
    assert label_names(again) == list(again.id2label.values()) == ["bus", "lorry"]
    assert again.label2id == {"bus": 0, "lorry": 1}
    assert again.problem_type is None
    assert not {"an a", "b"} & set(_leaves(again.to_dict()))


def _leaves(node):
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    return [node] if children is None else [leaf for child in children for leaf in _leaves(child)]


@pytest.mark.parametrize("classes", [("A", "a"), ("not ok", "not_ok"), ("Ok", "not_ok", "ok")])
def test_images_keep_their_classes_when_a_model_names_them_in_another_order(classes, tmp_path):
    for shade, name in enumerate(classes):
        (tmp_path / name).mkdir()
        for number in range(30):
            Image.new("L", (8, 8), 40 * shade + number).save(tmp_path / name / f"{number}.png")
    data = load_data(DataSection(path=str(tmp_path)), seed=0)
    of_shade = dict(zip(range(len(classes)), classes, strict=True))
    data = data.aligned(list(reversed(data.label_names)))
    for images in data.splits.values():
        for item in (images[index] for index in range(len(images))):
            assert data.label_names[item["label"]] == of_shade[item["view"].max().item() // 40]
            assert item["label"] != IGNORED_LABEL


IMAGES, LABELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
ORDER = ["cat", "dog", "eel"]


def classifier(names, seed):
    torch.manual_seed(seed)
    built = build_registered("resnet18", names, width=0.125, image_size=32)
    nn.init.normal_(built.model.classifier[1].weight)  # so that its classes differ
    return built


def by_trainer(student, teacher, folder):
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True)
    trainer = DistillationTrainer(student.model, arguments, teacher=teacher.model, loss_config=LossConfig(loss="kl"))
    return trainer.compute_loss(student.model.train(), {"pixel_values": IMAGES, "labels": LABELS})


def by_trainer_with_answers(student, teacher, folder):
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True)
    options = {"teacher_labels": teacher.label_names, "loss_config": LossConfig(loss="kl")}
    trainer = DistillationTrainer(student.model, arguments, **options)
    with torch.no_grad():
        inputs = {
            "pixel_values": IMAGES,
            "labels": LABELS,
            "teacher_outputs": {"logits": teacher.model(IMAGES).logits},
        }
    return trainer.compute_loss(student.model.train(), inputs)


def by_optimum(student, teacher, folder):
    pytest.importorskip("optimum.quantization_base")
    from hf_compress.adapters.optimum import CompressionTrainer, DistillationConfig

    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True)
    config = DistillationConfig(loss="kl")
    trainer = CompressionTrainer(student.model, arguments, teacher_model=teacher.model, distillation_config=config)
    return trainer.compute_loss(student.model.train(), {"pixel_values": IMAGES, "labels": LABELS})


def by_neural_compressor(student, teacher, folder):
    from hf_compress.adapters.neural_compressor import DistillConfig, prepare

    model = prepare(student.model, DistillConfig(teacher_model=teacher.model, loss="kl"))
    return model.train()(pixel_values=IMAGES, labels=LABELS).loss


MEETINGS = [by_trainer, by_trainer_with_answers, by_optimum, by_neural_compressor]


@pytest.mark.parametrize("meet", MEETINGS)
def test_a_teacher_in_another_order_teaches_the_same(meet, tmp_path):
    teacher = classifier(ORDER, 1)
    wanted = meet(classifier(ORDER, 2), teacher, tmp_path).item()
    assert meet(classifier(ORDER, 2), turned(teacher, [2, 0, 1]), tmp_path).item() == pytest.approx(wanted, rel=1e-4)
    more = turned(teacher, [1, 0, 0, 2], ["dog, hound", "cat", "bus", "eel"])
    assert meet(classifier(ORDER, 2), more, tmp_path).item() == pytest.approx(wanted, rel=1e-4)
    unnamed = classifier(DEFAULTS, 1)
    assert meet(classifier(ORDER, 2), unnamed, tmp_path).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("meet", MEETINGS)
def test_a_teacher_of_other_classes_is_refused(meet, tmp_path):
    with pytest.raises(UsageError, match=r"\(bus, lorry, van\) are not those of the student \(cat, dog, eel\)"):
        meet(classifier(ORDER, 2), classifier(["bus", "lorry", "van"], 1), tmp_path)


def test_losses_of_layers_and_labels_ask_for_no_common_classes(tmp_path):
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    layers = {"loss": "attention", "layers": {"resnet.encoder": "resnet.encoder"}}
    config = LossConfig(losses=[{"loss": "ce"}, layers])
    student, teacher = classifier(ORDER, 2).model, classifier(["bus", "lorry"], 1).model
    assert DistillationTrainer(student, arguments, teacher=teacher, loss_config=config).teacher_order is None


@pytest.mark.parametrize("kind", ["kept answers", "asked at each step", "ensemble"])
def test_a_teacher_in_another_order_teaches_the_same_in_a_run(kind, tmp_path):
    digits = [str(digit) for digit in range(10)]
    splits = {"train": "train[:40]", "validation": "train[300:320]", "test": "train[400:420]"}
    data = load_data(DataSection(path="digits", splits=splits), 0)
    if kind == "asked at each step":
        data.train.augment, data.train.views = nn.Identity(), None
    teacher = classifier(digits, 1)
    other = turned(teacher, [*range(3, 10), 0, 1, 2])
    if kind == "ensemble":
        teacher, other = (as_one([loaded] * 2, [list(range(10))] * 2) for loaded in (teacher, other))
    losses = []
    for number, loaded in enumerate((teacher, other)):
        student = classifier(digits, 2)
        context = Context(data, student.processor, None, 0, tmp_path / str(number), log=lambda line: None)
        config = DistillSection(loss="kl", epochs=1, batch_size=20)
        losses.append(train(student.model, context, config, loaded)["epochs"][0]["training_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def turned(loaded, order, names=None):
    """Return the same model with these of its classes, and perhaps other names for them."""
    model = copy.deepcopy(loaded.model)
    head = model.classifier[1]
    head.weight, head.bias = (nn.Parameter(tensor[order].detach()) for tensor in (head.weight, head.bias))
    set_labels(model.config, names or [loaded.label_names[index] for index in order])
    return replace(loaded, model=model)
