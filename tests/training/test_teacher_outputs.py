"""A teacher is asked once where views repeat, and training gives the same weights whoever asked it."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_compress.data import Collator, load_data
from hf_compress.models.load import LoadedModel
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training import teacher_outputs
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.teacher_outputs import answered, fingerprint
from hf_compress.training.trainer import DistillationTrainer

SPLITS = {"train": "train[:48]", "validation": "train[300:330]", "test": "train[400:430]"}
PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16})
OF_TEACHER = ViTImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.1] * 3)


def vit(seed, size=16, width=16, dropout=0.0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, image_size=size, patch_size=8, num_labels=10, hidden_dropout_prob=dropout)
    return ViTForImageClassification(config).eval()


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_COMPRESS_CACHE", str(tmp_path / "shared"))
    return tmp_path / "shared"


@pytest.fixture
def teacher():
    return LoadedModel(vit(1, 24, 32), OF_TEACHER, "teacher")


def context(folder, **options):
    data = load_data(DataSection(path="digits", splits=SPLITS, **options), 0)
    data = data.augmented(options.get("augmentation", "none"), PROCESSOR, OF_TEACHER)
    return Context(data, PROCESSOR, None, 0, folder, log=lambda line: None, resumable=True)


def distilled(own, teacher, log=lambda line: None, **options):
    """Return the weights of a student, which uses dropout, and the details of its training."""
    student = vit(0, dropout=0.2)
    config = DistillSection(loss=options.pop("loss", "kl"), epochs=3, batch_size=20, learning_rate=0.01)
    given = replace(context(own, **options), log=log)
    details = train(student, given, config, teacher)
    return student.state_dict(), details


def same(first, second):
    return all(torch.equal(first[0][name], second[0][name]) for name in first[0]) and first[1] == second[1]


def files(folder):
    return sorted(file.name for file in folder.glob("*.safetensors"))


def never(*args):
    raise AssertionError("the teacher was asked")


TWO_VIEWS = {"augmentation": "light", "views": 2}
MIXED = {"mixup": 0.5, "cutmix": 1.0, "views": 2}
OPTIONS = [{}, TWO_VIEWS, {"augmentation": "standard", "views": 5}, MIXED]


@pytest.mark.parametrize("options", OPTIONS, ids=["no augmentation", "2 views", "more views than epochs", "mixed"])
def test_answers_of_another_run_give_the_same_weights(tmp_path, shared, teacher, monkeypatch, options):
    said = []
    first = distilled(tmp_path / "first", teacher, said.append, **options)
    assert len(files(shared)) == min(options.get("views", 1), 3)
    asked = [line for line in said if "asking the teacher" in line]
    assert asked == ["asking the teacher about 48 images"] * len(files(shared))
    with monkeypatch.context() as patch:
        patch.setattr(teacher.model, "forward", None)
        patch.setattr(teacher_outputs, "_ask_all", never)
        patch.setattr(teacher_outputs, "_shapes", lambda *_: {"logits": (10,)})
        assert same(first, distilled(tmp_path / "second", teacher, **options))
    monkeypatch.setenv("HF_COMPRESS_CACHE_GB", "0")
    assert same(first, distilled(tmp_path / "own", teacher, **options))
    assert files(tmp_path / "own" / "teacher-outputs") == files(shared)


def test_an_interrupted_training_with_views_gives_the_same_weights(tmp_path, shared, teacher):
    options = {"augmentation": "light", "views": 2}
    whole = distilled(tmp_path / "whole", teacher, **options)

    def interrupt(line):
        if "epoch 1 of 3" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distilled(tmp_path / "interrupted", teacher, interrupt, **options)
    assert same(whole, distilled(tmp_path / "interrupted", teacher, **options))


@pytest.mark.parametrize("loss", ["mse", "mse_ce", "kl"])
def test_the_loss_is_that_of_the_teacher_looking_on(tmp_path, shared, teacher, loss):
    """To rounding: it was asked in batches of another size."""
    given = context(tmp_path, augmentation="light", views=2)
    images = answered(given.data.train, teacher, given, epochs=2)
    student, config = vit(0), DistillSection(loss=loss)
    for epoch in range(2):
        items, live = (split.in_epoch(epoch) for split in (images, given.data.train))
        items.teacher_outputs = images.teacher_outputs
        batch = Collator(PROCESSOR, OF_TEACHER)(items.__getitems__([5, 40, 11]))
        assert "teacher_pixel_values" not in batch
        shown = Collator(PROCESSOR, OF_TEACHER)(live.__getitems__([5, 40, 11]))
        assert torch.equal(batch["pixel_values"], shown["pixel_values"])
        with torch.no_grad():
            expected = teacher.model(pixel_values=shown["teacher_pixel_values"]).logits
        assert torch.allclose(batch["teacher_outputs"]["logits"], expected, atol=1e-5)
        losses = [
            loss_of(student, config, inputs, watching)
            for inputs, watching in ((batch, None), (shown, copy.deepcopy(teacher.model)))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    first, second = (outputs["logits"] for outputs in images.teacher_outputs)
    assert not torch.allclose(first, second, atol=1e-2)


def loss_of(student, config, inputs, teacher):
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")
    trainer = DistillationTrainer(student, arguments, teacher=teacher, loss_config=config)
    return trainer.compute_loss(student.train(), inputs).item()


@pytest.mark.parametrize("options", [TWO_VIEWS, MIXED], ids=["augmented", "mixed"])
def test_every_epoch_shows_its_own_view_and_answers(tmp_path, shared, teacher, monkeypatch, options):
    """Each view's batches arrive with the answers to that view, whatever the order of the images."""
    seen = []
    compute = DistillationTrainer.compute_loss

    def recorded(self, model, inputs, *args, **kwargs):
        if model.training:
            seen.append(
                (self.state.epoch, inputs["pixel_values"].clone(), inputs["teacher_outputs"]["logits"].clone())
            )
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", recorded)
    distilled(tmp_path / "own", teacher, **options)
    given = context(tmp_path, **options)
    assert (given.data.train.mixing is not None) == ("mixup" in options)
    images = answered(given.data.train, teacher, given, epochs=2)
    expected = []
    for view in range(2):
        pixels = Collator(PROCESSOR)(given.data.train.in_epoch(view).__getitems__(list(range(48))))["pixel_values"]
        rows = zip(pixels, images.teacher_outputs[view]["logits"], strict=True)
        expected.append({pixel.numpy().tobytes(): output.numpy().tobytes() for pixel, output in rows})
    for epoch, pixels, outputs in seen:
        for pixel, output in zip(pixels, outputs, strict=True):
            assert expected[int(epoch) % 2][pixel.numpy().tobytes()] == output.numpy().tobytes()
    assert len(seen) == 9


@pytest.mark.parametrize(
    "options",
    [{"augmentation": "light"}, {"mixup": 0.5}, {"loss": "hints"}],
    ids=["new views", "new mixes", "layers"],
)
def test_where_answers_are_of_no_use_none_are_kept(tmp_path, shared, teacher, options):
    if options.get("loss") == "hints":
        given = context(tmp_path / "own")
        config = DistillSection(loss="hints", layers={"vit.layers.0": "vit.layers.0"}, epochs=1)
        train(vit(0, 24), Context(given.data, OF_TEACHER, None, 0, tmp_path / "own"), config, teacher)
    else:
        distilled(tmp_path / "own", teacher, **options)
    assert files(shared) == []
    assert not (tmp_path / "own" / "teacher-outputs").exists()


def test_asking_draws_no_random_number(tmp_path, shared, teacher):
    given = context(tmp_path)
    torch.manual_seed(3)
    answered(given.data.train, teacher, given, epochs=1)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def changed_weight(loaded):
    loaded.model.classifier.bias.data[0] += 1e-6


def changed_config(loaded):
    loaded.model.config.layer_norm_eps = 1e-3


def changed_processor(loaded):
    loaded.processor = ViTImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.2] * 3)


def changed_module(loaded):
    loaded.model.vit.layernorm.eps = 1e-3


@pytest.mark.parametrize("change", [changed_weight, changed_config, changed_processor, changed_module])
def test_another_teacher_has_another_fingerprint(teacher, change):
    other = copy.deepcopy(teacher)
    other.model.config._name_or_path = "elsewhere"
    assert fingerprint(other, CLASSIFICATION) == fingerprint(teacher, CLASSIFICATION)
    change(other)
    assert fingerprint(other, CLASSIFICATION) != fingerprint(teacher, CLASSIFICATION)


def test_answers_are_those_of_the_own_teacher_and_views(tmp_path, shared, teacher):
    given = context(tmp_path, augmentation="light", views=2)
    other = copy.deepcopy(teacher)
    other.model.classifier.bias.data += 1

    def answers(which):
        views = answered(given.data.train, which, given, epochs=2).teacher_outputs
        return torch.stack([outputs["logits"] for outputs in views])

    first = answers(teacher)
    assert torch.allclose(answers(other), first + 1, atol=1e-5)
    assert not torch.equal(first[0], first[1])


def test_other_threads_are_another_fingerprint(teacher):
    before, threads = fingerprint(teacher, CLASSIFICATION), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert fingerprint(teacher, CLASSIFICATION) != before
    finally:
        torch.set_num_threads(threads)
