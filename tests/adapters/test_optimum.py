"""The adapter for Optimum: configurations on the Hub, the compressor, and the Trainer of an ordinary script."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from hub_client import Client
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from shapes import tiny_segmenter
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers import Trainer as OrdinaryTrainer

from hf_compress import Recipe, compress, save
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.manifest import Manifest
from hf_compress.measure.cost import count_parameters
from hf_compress.models.students import build_registered
from hf_compress.report.measures import in_thousands
from hf_compress.steps.pruning.remove.weights import prunable_weights, sparsity

pytest.importorskip("optimum.quantization_base")

from hf_compress.adapters import optimum
from hf_compress.adapters.optimum import (
    CompressionConfig,
    CompressionTrainer,
    Compressor,
    DistillationConfig,
    PruningConfig,
    QuantizationConfig,
)

STEP = {"amount": 0.5, "iterative": False, "recovery": {"epochs": 1}}
SECTIONS = {
    "data": {
        "path": "digits",
        "splits": {"train": "train[:200]", "validation": "train[200:300]", "test": "train[300:400]"},
    },
    "measure": {"repeats": 3, "batch_size": 2},
}


def classifier(seed, labels=3):
    torch.manual_seed(seed)
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=labels)
    )


def rows(teacher_view=False, labelled=True, count=16):
    generator, for_teacher = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    return [
        {"pixel_values": torch.randn(3, 16, 16, generator=generator)}
        | ({"labels": number % 3} if labelled else {})
        | ({"teacher_pixel_values": torch.randn(3, 8, 8, generator=for_teacher)} if teacher_view else {})
        for number in range(count)
    ]


def trainer(folder, cls=CompressionTrainer, model=None, data=None, save_steps=0, **options):
    arguments = TrainingArguments(
        str(folder), num_train_epochs=1, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="steps" if save_steps else "no", save_steps=save_steps or 1,
    )  # fmt: skip
    return cls(model or classifier(0), arguments, train_dataset=data or rows(), **options)


def test_a_tracker_that_the_arguments_name_is_told(tmp_path, monkeypatch):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    arguments = TrainingArguments(
        str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True,
        report_to="tensorboard", logging_strategy="epoch", save_strategy="no",
    )  # fmt: skip
    student = CompressionTrainer(classifier(0), arguments, train_dataset=rows(), teacher_model=classifier(1))
    student.train()
    told = reading.EventAccumulator(str(tmp_path / "board")).Reload().Scalars("train/loss")
    losses = [entry["loss"] for entry in student.state.log_history if "loss" in entry]
    assert [event.value for event in told] == pytest.approx(losses) and len(losses) == 2


def test_a_configuration_survives_the_file(tmp_path):
    config = CompressionConfig(
        [
            DistillationConfig(loss="kl", epochs=2),
            PruningConfig(target={"macs": 0.5}),
            QuantizationConfig(epochs=3),
            {"finetune": {"epochs": 1}},
        ],
        student={"model": "resnet18", "width": 0.5},
        seed=7,
    )
    config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["compression_config.json"]
    assert "finetune" not in json.loads((tmp_path / "compression_config.json").read_text())
    again = CompressionConfig.from_pretrained(tmp_path)
    places = {"teacher.model": "x/y", "data.path": "digits"}
    recipe = again.to_recipe(places)
    assert recipe == config.to_recipe(places)
    assert recipe.step_names == ["distill", "prune", "quantize", "finetune"]
    assert recipe.steps[0]["distill"].loss == "kl"
    assert recipe.steps[1]["prune"].target.value == 0.5
    assert recipe.steps[2]["quantize"].epochs == 3
    assert (recipe.student.width, recipe.seed) == (0.5, 7)


@pytest.mark.parametrize("name", ["quickstart", "prune-iterative-l1", "prune-weights-l1", "distill-mse-ce"])
def test_every_recipe_has_a_configuration_and_back(name, tmp_path):
    recipe = Recipe.load(name)
    CompressionConfig.from_recipe(recipe).save_pretrained(tmp_path)
    assert CompressionConfig.from_pretrained(tmp_path).to_recipe().to_yaml() == recipe.to_yaml()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PruningConfig(amuont=0.1), "'PruningConfig.amuont' .*did you mean 'amount'"),
        (lambda: DistillationConfig(loss="msee"), "unknown distillation loss 'msee'; did you mean"),
        (lambda: CompressionConfig(stpes=[]), "no section 'stpes'; did you mean 'steps'"),
        (lambda: CompressionConfig([PruningConfig()]).to_recipe({"teacher.model": "x"}), "'data' is missing"),
        (lambda: Compressor.from_pretrained("x", file_name="y.onnx"), "'file_name' cannot be 'y.onnx'"),
        (lambda: Compressor.from_pretrained("x").quantize("y", file_prefix="z"), "'file_prefix' cannot be 'z'"),
        (lambda: Compressor("x").quantize("y", datset="digits"), "no argument 'datset'; did you mean 'dataset'"),
        (
            lambda: Compressor("x").auto({"faster": 2}, "digits", minuts=1),
            "no argument 'minuts'; did you mean 'minutes'",
        ),
        (lambda: Compressor("x").compress({}, datset="digits"), "no argument 'datset'; did you mean 'dataset'"),
        (lambda: Compressor.from_pretrained("x", trust_remote=1), "'trust_remote'; did you mean 'trust_remote_code'"),
        (lambda: Compressor("x").compress({"stpes": []}), "no section 'stpes'; did you mean 'steps'"),
        (lambda: Compressor("x").compress("prune-iterativ-l1"), "did you mean 'prune-iterative-l1'"),
    ],
)
def test_mistakes_are_one_sentence(make, says):
    with pytest.raises(UsageError, match=says):
        make()


@pytest.mark.parametrize(
    "config", [PruningConfig(), CompressionConfig(["prune"]), {"steps": ["prune"]}, "prune-iterative-l1"]
)
def test_a_compressor_takes_steps_dicts_and_names_of_recipes(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not a run folder"):
        Compressor("a/b").compress(config, "digits", tmp_path)


def test_a_wrong_keyword_gets_a_suggestion(tmp_path):
    with pytest.raises(UsageError, match="no argument 'teacher'; did you mean 'teacher_model'"):
        trainer(tmp_path, teacher=classifier(1))
    with pytest.raises(UsageError, match="no argument 'eval_datset'; did you mean 'eval_dataset'"):
        trainer(tmp_path, eval_datset=rows())


def pushed(repository, folder, script, *arguments):
    """Return the files of a repository of a loopback Hub to which a script pushed as ann."""
    hub_server = pytest.importorskip("hub_server", reason="needs the loopback Hub of tests/hub_server.py")
    with hub_server.Hub(folder / "objects", {"hf_ann": "ann"}) as hub:
        environment = os.environ | Client(folder, hub.url).environment | {"HF_TOKEN": "hf_ann"}
        subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=True, capture_output=True)
        return hub.files(repository)


PUSH = """
from hf_compress.adapters.optimum import CompressionConfig, PruningConfig

config = CompressionConfig([PruningConfig(amount=0.3)], student="resnet18")
config.push_to_hub("ann/recipe")
again = CompressionConfig.from_pretrained("ann/recipe")
places = {"teacher.model": "x", "data.path": "digits"}
assert again.to_recipe(places) == config.to_recipe(places)
"""


@pytest.mark.long
def test_the_configuration_goes_to_the_hub_and_comes_back(tmp_path):
    (step,) = json.loads(pushed("ann/recipe", tmp_path, PUSH)["compression_config.json"])["steps"]
    assert step["prune"]["amount"] == 0.3


@pytest.mark.long
def test_the_compressor_makes_the_run_that_the_recipe_makes(tmp_path, monkeypatch):
    teacher = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=32)
    save(teacher.model, tmp_path / "teacher", teacher.processor)
    recipe = Recipe.from_dict({"teacher": str(tmp_path / "teacher"), "steps": [{"prune": STEP}]} | SECTIONS)
    expected = compress(recipe, tmp_path / "recipe", log=lambda line: None)
    config = CompressionConfig([PruningConfig(**STEP)], measure=SECTIONS["measure"])
    compressor = Compressor.from_pretrained(tmp_path / "teacher")
    run = compressor.compress(config, dataset=SECTIONS["data"], save_dir=tmp_path / "optimum")
    for row, other in zip(expected.report["rows"], run.report["rows"], strict=True):
        assert row["quality"] == other["quality"]
        assert row.get("details") == other.get("details")
        assert row["cost"]["macs"] == other["cost"]["macs"]
    model, other = (
        AutoModelForImageClassification.from_pretrained(folder).state_dict()
        for folder in (expected.folder, run.folder)
    )
    assert all(torch.equal(model[name], other[name]) for name in model)
    assert CompressionConfig.from_pretrained(run.folder).to_recipe() == recipe
    assert Manifest.of(run.folder).owns(run.folder, "compression_config.json")
    with pytest.raises(UsageError, match="earlier run"):
        compressor.quantize(tmp_path / "optimum", config=PruningConfig(), dataset="digits")
    sent = []
    monkeypatch.setattr(
        optimum, "send", lambda run, recipe, *_: sent.append((recipe.publish.to, *run.folder.iterdir()))
    )
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    config = CompressionConfig(
        [PruningConfig(**STEP)], measure=SECTIONS["measure"], publish={"to": "ann/small", "license": "mit"}
    )
    again = {"save_dir": tmp_path / "optimum", "overwrite": True, "publish": True}
    run = compressor.compress(config, dataset=SECTIONS["data"], **again)
    assert sent[0][0] == "ann/small" and run.folder / "compression_config.json" in sent[0]
    assert "publish" not in json.loads((run.folder / "compression_config.json").read_text())


def test_without_configurations_it_is_the_ordinary_trainer(tmp_path):
    ours, theirs = trainer(tmp_path), trainer(tmp_path, OrdinaryTrainer)
    losses = [task.train().training_loss for task in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for mine, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("own_view", [False, True])
def test_the_loss_compares_with_what_the_teacher_sees(tmp_path, own_view):
    teacher = classifier(1)
    options = {"teacher_model": teacher, "distillation_config": DistillationConfig(loss="mse")}
    task = trainer(tmp_path, data=rows(own_view), **options)
    batch = next(iter(task.get_train_dataloader()))
    task.model.train()
    with torch.no_grad():
        loss = task.compute_loss(task.model, batch)
        student_logits = task.model(batch["pixel_values"]).logits
        teacher_logits = teacher.eval()(batch["teacher_pixel_values" if own_view else "pixel_values"]).logits
    assert loss.item() == pytest.approx(F.mse_loss(student_logits.softmax(1), teacher_logits.softmax(1)).item())


class StrictForImageClassification(ResNetForImageClassification):
    """A model that takes nothing but its own inputs, as custom code often does."""

    def forward(self, pixel_values, labels=None):
        return super().forward(pixel_values=pixel_values, labels=labels)


@pytest.mark.parametrize("labelled", [True, False])
def test_evaluation_is_the_ordinary_one_even_where_batches_have_a_view_for_the_teacher(tmp_path, labelled):
    images = rows(labelled=labelled)
    ours = trainer(tmp_path, model=StrictForImageClassification(classifier(0).config), teacher_model=classifier(1))
    theirs = trainer(tmp_path, OrdinaryTrainer, model=ours.model)
    expected = theirs.predict(images)
    got = ours.predict(rows(teacher_view=True, labelled=labelled))
    assert got.predictions == pytest.approx(expected.predictions)
    assert got.metrics.get("test_loss") == expected.metrics.get("test_loss")


def test_images_without_labels_can_be_learnt_from(tmp_path):
    task = trainer(tmp_path, data=rows(labelled=False), teacher_model=classifier(1))
    before = classifier(0).classifier[1].weight
    task.train()
    assert not torch.equal(task.model.classifier[1].weight, before)
    options = {"teacher_model": classifier(1), "distillation_config": DistillationConfig(loss="mse_ce")}
    with pytest.raises(RunError, match="needs 'labels' in every batch"):
        trainer(tmp_path, data=rows(labelled=False), **options).train()


def test_distilled_and_pruned_in_one_training_it_saves_like_any_trainer(tmp_path, caplog):
    task = trainer(
        tmp_path,
        teacher_model=classifier(1),
        distillation_config=DistillationConfig(loss="kl", epochs=5),
        pruning_config=PruningConfig(granularity="weight", amount=0.25, target={"sparsity": 0.5}),
    )
    assert "epochs of DistillationConfig has no effect" in caplog.text
    task.train()
    task.save_model()
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert task.pruning.sparsity == pytest.approx(0.5, abs=0.01)
    assert sparsity(prunable_weights(again, set())) == task.pruning.sparsity


def test_every_option_of_pruning_without_effect_is_named(tmp_path, caplog):
    having = {
        "granularity": "weight",
        "amount": 0.25,
        "target": {"sparsity": 0.5},
        "floor": 0.0,
        "exclude": ["classifier.1"],
    }
    ignored = {
        "calibration": 8,
        "layout": "free",
        "max_drop": 0.1,
        "pattern": "2:4",
        "recovery": {"epochs": 1},
        "repair": "none",
    }
    trainer(tmp_path, pruning_config=PruningConfig(**having))
    assert "no effect" not in caplog.text
    trainer(tmp_path, pruning_config=PruningConfig(**having, **ignored))
    assert f"say: {', '.join(ignored)} of PruningConfig has no effect" in caplog.text


def test_projectors_between_layers_are_trained_and_not_saved(tmp_path):
    torch.manual_seed(1)
    sizes = {"embedding_size": 8, "hidden_sizes": [12, 20], "depths": [1, 1], "layer_type": "basic"}
    teacher = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3))
    layers = {"resnet.encoder.stages.0": "resnet.encoder.stages.0", "resnet.encoder.stages.1": "resnet"}
    losses = [{"loss": "kl"}, {"loss": "hints", "layers": layers}]
    task = trainer(tmp_path, teacher_model=teacher, distillation_config=DistillationConfig(losses=losses))
    projectors = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            projectors.extend(parameter.detach().clone() for parameter in task.criterion.parameters())

    task.add_callback(Watch())
    task.train()
    trained = list(task.criterion.parameters())
    assert len(trained) == 4
    assert not any(torch.equal(before, after) for before, after in zip(projectors, trained, strict=True))
    task.save_model()
    assert load_file(tmp_path / "model.safetensors").keys() == classifier(0).state_dict().keys()
    with pytest.raises(UsageError, match=r"'resnet.encoder.stage.1', which the student .* did you mean 'resnet.enc"):
        losses = {"loss": "attention", "layers": {"resnet.encoder.stage.1": "resnet"}}
        trainer(tmp_path, teacher_model=teacher, distillation_config=DistillationConfig(**losses)).train()


def vision_transformer(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3))


def test_a_training_of_a_transformer_can_be_resumed(tmp_path):
    """The Hub names of its weights are not those in memory."""
    whole = trainer(tmp_path, model=vision_transformer(0), save_steps=2)
    whole.train()
    resumed = trainer(tmp_path, model=vision_transformer(1), save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
        assert torch.equal(weight, reloaded.state_dict()[name]), name


def test_a_distillation_needs_a_teacher(tmp_path):
    with pytest.raises(UsageError, match="pass 'teacher_model'"):
        trainer(tmp_path, distillation_config=DistillationConfig())


def test_a_folder_is_a_teacher_and_dicts_are_configurations(tmp_path):
    teacher = build_registered("resnet18", ["0", "1", "2"], width=0.25, image_size=16)
    save(teacher.model.eval(), tmp_path / "teacher", teacher.processor)
    plain = {
        "distillation_config": {"loss": "kl"},
        "pruning_config": {"granularity": "weight", "target": {"sparsity": 0.5}},
    }
    model = build_registered("resnet18", ["0", "1", "2"], width=0.25, image_size=16).model
    task = trainer(tmp_path, model=model, teacher_model=str(tmp_path / "teacher"), **plain)
    for name, weight in teacher.model.state_dict().items():
        assert torch.equal(task.teacher.state_dict()[name], weight)
    assert task.criterion.terms[0].loss == "kl"
    assert task.pruning.final == 0.5
    with pytest.raises(UsageError, match=r"unknown key 'DistillationConfig.los'.*did you mean 'loss'"):
        trainer(tmp_path, teacher_model=classifier(1), distillation_config={"los": "kl"})


def test_a_loss_beside_the_teachers_is_refused(tmp_path):
    other = {"compute_loss_func": lambda outputs, labels, **_: F.cross_entropy(outputs["logits"], labels)}
    with pytest.raises(UsageError, match="leave out 'compute_loss_func'"):
        trainer(tmp_path, teacher_model=classifier(1), **other)
    assert trainer(tmp_path, **other).train().training_loss > 0
    smooth = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to="none")
    with pytest.raises(UsageError, match="leave out 'label_smoothing_factor'"):
        CompressionTrainer(classifier(0), smooth, train_dataset=rows(), teacher_model=classifier(1))


def test_the_card_of_a_training_is_that_of_a_run_with_what_a_trainer_knows(tmp_path):
    built = build_registered("resnet18", ["0", "1", "2"], width=0.125, image_size=16)
    teacher = build_registered("resnet18", ["0", "1", "2"], width=0.25, image_size=16)
    save(teacher.model.eval(), tmp_path / "teacher", teacher.processor)
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    task = trainer(
        tmp_path / "out",
        model=built.model,
        teacher_model=str(tmp_path / "teacher"),
        distillation_config={"loss": "kl", "temperature": 2},
        pruning_config={"granularity": "weight", "amount": 0.25, "target": {"sparsity": 0.5}},
        eval_dataset=rows(),
        processing_class=built.processor,
        compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(1) == said.label_ids).mean())},
    )
    task.train()
    accuracy = task.evaluate()["eval_accuracy"]
    task.create_model_card(dataset="user/pictures", language="en")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.tags == ["hf-compress", "distillation", "pruning"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-classification")
    assert card.data.license == "apache-2.0"
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_value) == ("user/pictures", round(accuracy, 6))
    sections = re.findall("^## (.*)", card.text, re.MULTILINE)
    assert sections[:3] == ["What was gained, what was lost", "Step by step", "How to load it"]
    assert sections[3:] == ["Limits", "Data", "Training", "Environment"]
    zeros = sum(int((p == 0).sum()) for p in built.model.parameters())
    assert f"| parameters | {in_thousands(count_parameters(teacher.model))} | " in card.text
    assert f"{in_thousands(count_parameters(built.model) - zeros)} |" in card.text
    assert f"its accuracy on 16 evaluation images is {accuracy:.4f}." in card.text
    assert "loss: kl\n  temperature: 2.0\nprune:\n" in card.text and "learning_rate: 0.01" in card.text
    assert "| evaluation | 16 | eval_dataset of the Trainer |" in card.text
    assert "test images" not in card.text.replace("test images may be among them", "")


def test_a_card_says_what_a_trainer_does_not_know(tmp_path):
    task = trainer(tmp_path, pruning_config=PruningConfig(granularity="weight", amount=0.5, iterative=False))
    task.train()
    task.create_model_card(tags="mine", license="mit")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["hf-compress", "pruning", "mine"]
    assert (card.data.license, card.data.eval_results) == ("mit", None)
    assert "- The model was not evaluated." in card.text
    assert "- No image processor lies beside the model" in card.text
    assert "| non-zero parameters |" in card.text


TRAIN_AND_PUSH = """
import sys
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments
import torch
from hf_compress.adapters.optimum import CompressionTrainer

sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
models = [ResNetForImageClassification(ResNetConfig(**sizes)) for _ in range(2)]
images = [{"pixel_values": torch.randn(3, 16, 16), "labels": number % 3} for number in range(8)]
arguments = TrainingArguments(sys.argv[1], max_steps=1, use_cpu=True, report_to="none", hub_model_id="ann/small")
trainer = CompressionTrainer(
    models[0], arguments, train_dataset=images, eval_dataset=images, teacher_model=models[1],
    distillation_config={"loss": "kl"},
)
trainer.train()
trainer.evaluate()
trainer.push_to_hub()
"""


@pytest.mark.long
def test_a_training_that_is_pushed_has_our_card(tmp_path):
    card = pushed("ann/small", tmp_path, TRAIN_AND_PUSH, str(tmp_path / "out"))["README.md"].decode()
    assert "hf-compress" in ModelCard(card).data.tags
    assert "\n# ann/small\n" in card and "\n## What was gained, what was lost\n" in card
    assert 'from_pretrained("ann/small")' in card or 'model_id = "ann/small"' in card


def test_projectors_come_back_with_a_checkpoint(tmp_path):
    torch.manual_seed(1)
    sizes = {"embedding_size": 8, "hidden_sizes": [12, 20], "depths": [1, 1], "layer_type": "basic"}
    teacher = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3))
    config = DistillationConfig(loss="hints", layers={"resnet.encoder.stages.0": "resnet.encoder.stages.0"})

    def distilling(seed):
        torch.manual_seed(seed)
        return trainer(tmp_path, teacher_model=teacher, distillation_config=config, save_steps=2)

    whole, resumed = distilling(0), distilling(1)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for mine, other in zip(resumed.criterion.parameters(), whole.criterion.parameters(), strict=True):
        assert torch.equal(mine, other)
    whole.save_model()
    assert not (tmp_path / "projectors.safetensors").exists()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_teacher_in_half_precision_is_asked_in_float32_and_stays_what_it_was(kind, tmp_path):
    teacher = classifier(1).to(kind)
    task = trainer(tmp_path, teacher_model=teacher)
    task.train()
    assert {weight.dtype for weight in teacher.parameters()} == {kind}


def test_what_is_no_classifier_is_not_distilled_by_the_classes_of_pictures(tmp_path):
    says = "CompressionTrainer compares the classes of pictures, and SegformerForSemanticSegmentation is for segm"
    with pytest.raises(UsageError, match=says):
        trainer(tmp_path, model=tiny_segmenter(), teacher_model=tiny_segmenter())
    trainer(tmp_path, model=tiny_segmenter(), pruning_config=PruningConfig(granularity="weight", iterative=False))


def test_another_data_set_comes_without_the_commit_of_the_configurations_own():
    config = CompressionConfig(
        ["finetune"], student="resnet18", data={"path": "a/b", "revision": "0" * 40, "workers": 2}
    )
    recipe = optimum._recipe(config, {"teacher.model": "resnet18"}, "digits")
    assert (recipe.data.path, recipe.data.revision, recipe.data.workers) == ("digits", None, 2)
    assert optimum._recipe(config, {"teacher.model": "resnet18"}, "a/b").data.revision == "0" * 40
    assert optimum._recipe("quickstart", {}, {"path": "x/y", "revision": "main"}).data.revision == "main"
