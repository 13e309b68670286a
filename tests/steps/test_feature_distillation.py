"""Whole runs of `task: features` on real digits: what is learned, left and reported, and what is refused."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_compress import Recipe, cli, compress, save
from hf_compress.data import load_data
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.measure.features import cosine_similarity
from hf_compress.models.embeddings import embed, load_backbone, pooled_embedding
from hf_compress.models.load import LoadedModel
from hf_compress.tools.evaluation import evaluate_folder

SIZE = {"height": 32, "width": 32}
SPLITS = {"train": "train[:300]", "validation": "train[300:400]", "test": "train[400:500]"}
DIGITS = {"path": "digits", "splits": SPLITS}
TRAINING = {"epochs": 2, "learning_rate": 3e-3}
TRANSFORMER = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
STUDENT = {"model": "resnet18", "width": 0.125}


def saved(model, folder, **normalisation):
    save(model, folder, ViTImageProcessor(size=SIZE, **normalisation))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A DINOv2 and a full CLIP, both 32 wide, a ResNet as wide, and a ViT classifier; tiny and random."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vision = {**TRANSFORMER, "hidden_size": 32, "intermediate_size": 48}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    built = {
        "dinov2": Dinov2Model(Dinov2Config(**TRANSFORMER, hidden_size=32, mlp_ratio=2)),
        "clip": CLIPModel(CLIPConfig(vision_config=vision, text_config=text)),
        "resnet": ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1])),
        "vit": ViTForImageClassification(ViTConfig(**vision, num_labels=3)),
    }
    mean = {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.3, 0.3, 0.3]}
    return {name: saved(model, folder / name, **mean) for name, model in built.items()}


def recipe(teacher="some/model", student=STUDENT, **sections):
    values = {"task": "features", "teacher": teacher, "student": student, "data": DIGITS}
    values |= {"measure": {"batch_size": 2, "repeats": 3}, "steps": [{"distill_features": TRAINING}]}
    return Recipe.from_dict(values | sections)


def silently(recipe, folder):
    return compress(recipe, folder, log=lambda line: None)


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """A ResNet, 64 wide, learns from a DINOv2, 32 wide, in two steps."""
    steps = [{"distill_features": TRAINING}, {"distill_features": {**TRAINING, "epochs": 1}}]
    return silently(recipe(models["dinov2"], steps=steps), tmp_path_factory.mktemp("runs") / "out")


def test_the_student_comes_near_the_teacher_and_the_report_says_how_near(finished):
    rows = finished.report["rows"]
    assert finished.report["task"] == "features"
    assert [row["stage"] for row in rows] == ["teacher", "student", "1 distill_features", "2 distill_features"]
    assert rows[0]["quality"]["cosine_similarity"] == pytest.approx(1)
    assert set(rows[1]["quality"]) == {"knn_accuracy"}
    for row in rows:
        assert 0.1 < row["quality"]["knn_accuracy"] < 1
        for entry in row.get("differences", []):
            earlier = next(other for other in rows if other["stage"] == entry["against"])["quality"]
            assert entry["difference"] == pytest.approx(row["quality"][entry["metric"]] - earlier[entry["metric"]])
        assert row["cost"]["macs"] > 0
        assert set(row["latency"]) == {"batch_1", "batch_2"}
    assert all(row["differences"] for row in rows[1:])
    assert rows[3]["quality"]["cosine_similarity"] > 0.9
    assert rows[3]["quality"]["cosine_similarity"] > rows[2]["quality"]["cosine_similarity"]


def test_a_later_step_goes_on_with_the_projector(finished):
    first, second = (row["details"] for row in finished.report["rows"][2:])
    assert (first["width"], first["teacher_width"]) == (64, 32)
    assert second["epochs"][0]["training_loss"] < first["epochs"][-1]["training_loss"]


def test_what_is_left_gives_the_reported_similarity_with_transformers_and_safetensors_alone(finished, models):
    assert sorted(file.name for file in finished.folder.glob("*.safetensors")) == [
        "model.safetensors",
        "projector.safetensors",
    ]
    student, info = AutoModel.from_pretrained(finished.folder, output_loading_info=True)
    assert type(student) is ResNetModel
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    test = load_data(Recipe.load(finished.folder / "recipe.yaml").data, 0).test
    views = [item["view"] for item in test]

    @torch.no_grad()
    def embeddings(model, folder):
        pixels = AutoImageProcessor.from_pretrained(folder)(views, return_tensors="pt").pixel_values
        return model.eval()(pixel_values=pixels).pooler_output.flatten(1)

    answers = F.linear(embeddings(student, finished.folder), **load_file(finished.folder / "projector.safetensors"))
    targets = embeddings(AutoModel.from_pretrained(models["dinov2"]), models["dinov2"])
    similarity = F.cosine_similarity(answers, targets).mean().item()
    assert similarity == pytest.approx(finished.report["rows"][-1]["quality"]["cosine_similarity"], abs=1e-5)


def test_the_report_tells_what_the_mean_embedding_would_reach(finished, models):
    validation = load_data(Recipe.load(finished.folder / "recipe.yaml").data, 0).validation
    targets = embed(load_backbone(models["dinov2"]), validation)
    expected = torch.stack([F.cosine_similarity(targets.mean(0), row, dim=0) for row in targets]).mean()
    for row in finished.report["rows"][2:]:
        assert row["details"]["validation_cosine_similarity_of_mean"] == pytest.approx(expected.item(), abs=1e-5)


def test_a_run_folder_is_evaluated_by_its_nearest_neighbours(finished):
    last = finished.report["rows"][-1]
    result = evaluate_folder(str(finished.folder), None, "test")
    assert result["quality"] == {"knn_accuracy": pytest.approx(last["quality"]["knn_accuracy"])}
    assert result["cost"]["parameters"] == last["cost"]["parameters"]
    with pytest.raises(UsageError, match="gallery of the k-NN accuracy: choose --split"):
        evaluate_folder(str(finished.folder), None, "train")


def test_unlabelled_images_and_equal_widths_need_neither_labels_nor_projector(models, unlabelled_photos, tmp_path):
    steps = [{"distill_features": {"epochs": 5, "learning_rate": 0.01, "batch_size": 4}}]
    run = silently(recipe(models["clip"], models["resnet"], data=unlabelled_photos, steps=steps), tmp_path / "out")
    teacher, before, after = (row["quality"] for row in run.report["rows"])
    assert [set(quality) for quality in (teacher, before, after)] == [{"cosine_similarity"}] * 3
    assert before["cosine_similarity"] + 0.2 < after["cosine_similarity"] < teacher["cosine_similarity"]
    assert not (run.folder / "projector.safetensors").exists()
    with pytest.raises(RunError, match=r"has no labels, which the k-NN accuracy"):
        evaluate_folder(str(run.folder), None, "test")


@pytest.mark.long
def test_the_vision_tower_of_a_full_clip_is_a_student_that_reloads(models, tmp_path):
    run = silently(recipe(models["dinov2"], models["clip"]), tmp_path / "out")
    assert type(AutoModel.from_pretrained(run.folder)) is CLIPVisionModel
    quality = evaluate_folder(str(run.folder), None, "test")["quality"]
    assert quality["knn_accuracy"] == pytest.approx(run.report["rows"][-1]["quality"]["knn_accuracy"])


@pytest.mark.long
def test_a_classifier_teaches_by_its_class_token_not_by_an_untrained_pooling_layer(models, tmp_path):
    run = silently(recipe(models["vit"]), tmp_path / "out")
    teacher = LoadedModel(load_backbone(models["vit"]).model, AutoImageProcessor.from_pretrained(models["vit"]), "vit")
    teacher.model.pooler = None
    student = LoadedModel(AutoModel.from_pretrained(run.folder), AutoImageProcessor.from_pretrained(run.folder), "s")
    test = load_data(Recipe.load(run.folder / "recipe.yaml").data, 0).test
    answers = F.linear(embed(student, test), **load_file(run.folder / "projector.safetensors"))
    reported = run.report["rows"][-1]["quality"]["cosine_similarity"]
    assert cosine_similarity(answers, embed(teacher, test)) == pytest.approx(reported, abs=1e-5)


def test_the_loss_is_the_mean_squared_distance_and_the_teacher_is_frozen(models):
    from transformers import TrainingArguments

    from hf_compress.models.embeddings import Embedder
    from hf_compress.steps.feature_distillation.training import FeatureTrainer

    teacher, student = load_backbone(models["dinov2"]).model, load_backbone(models["clip"]).model
    projector = torch.nn.Linear(32, 32)
    model = Embedder(student, projector).train()
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")
    trainer = FeatureTrainer(model=model, args=arguments, teacher=teacher.train())
    mine, theirs = torch.randn(2, 3, 3, 32, 32)
    batch = {"pixel_values": mine, "teacher_pixel_values": theirs, "labels": torch.full((3,), -100)}
    loss = trainer.compute_loss(model, batch)
    expected = (projector(pooled_embedding(student, mine)) - pooled_embedding(teacher, theirs)).square().mean()
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert teacher.training and not trainer.teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert projector.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"steps": [{"distill": {"loss": "mse"}}]}, "'steps.0.distill' is a step of task 'classification'"),
        ({"steps": ["distill_features", "prune"]}, "'steps.1.prune' is a step of task 'classification', the recipe's "
         "task is 'features': use distill_features"),
        ({"task": "classification"}, "use distill, finetune, prune, quantize, rewrite, or set 'task: features'"),
        ({"task": "feature"}, "'task' cannot be 'feature'; did you mean 'features'?"),
        ({"student": "teacher"}, "nothing to learn from itself"),
        ({"teacher": {"model": "a/b", "finetune": {"epochs": 1}}}, "'teacher.finetune' trains a classifier"),
        ({"teacher": None}, "learns from a teacher"),
        ({"steps": [{"distill_features": {"loss": "mse"}}]}, "unknown key 'steps.0.distill_features.loss'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_one_sentence(sections, says):
    with pytest.raises(UsageError) as caught:
        recipe(**sections)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_with_random_weights_is_refused(tmp_path):
    with pytest.raises(RunError, match="starts from random weights: name a checkpoint"):
        silently(recipe("resnet18"), tmp_path / "out")


@pytest.mark.long
def test_the_shipped_recipe_runs_from_the_command_line(models, tmp_path, monkeypatch, capsys):
    values = {
        "student.width": 0.125,
        "data.splits": json.dumps(SPLITS),
        "steps.distill_features.epochs": 1,
        "measure.repeats": 3,
        "measure.batch_size": 2,
    }
    command = ["hf-compress", "run", "distill-features", "--teacher", models["dinov2"], "--data", "digits"]
    command += ["--output", str(tmp_path / "out"), *(f"--set={key}={value}" for key, value in values.items())]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "k-NN accuracy" in printed
    assert "cosine similarity" in printed
