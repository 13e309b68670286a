"""Measuring, tracing and distilling change nothing in the models that they are given, nor the random numbers."""

import copy
import importlib.util
import random
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments, ViTImageProcessor

from hf_compress.data import Collator, load_data
from hf_compress.ground.looking import kept_in_eval
from hf_compress.ground.units import Units
from hf_compress.measure.cost import bytes_on_disk, cost, count_macs, peak_memory
from hf_compress.measure.features import feature_examiner
from hf_compress.measure.latency import measure_latency
from hf_compress.models.embeddings import embed, embedding_width
from hf_compress.models.ensemble import as_one
from hf_compress.models.folding import fold_batch_norms
from hf_compress.models.load import LoadedModel
from hf_compress.run.recipe import Recipe
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.run.selection.probe import Probe, few_images
from hf_compress.run.stages import Stages
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.measure import MeasureSection
from hf_compress.sections.models import ProbeSection
from hf_compress.steps.pruning.allocate.rounding import fastest_multiple
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.tracing.trace import trace
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tools.inspection import inspect_layers
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.predicting import evaluate, predict, predictor
from hf_compress.training.teacher_outputs import answered, fingerprint
from hf_compress.training.trainer import DistillationTrainer

IMAGE = torch.zeros(1, 3, 16, 16)
PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16})
SPLITS = {"train": "train[:30]", "validation": "train[300:310]", "test": "train[400:420]"}
LOSS = DistillSection(loss="mse", epochs=1, batch_size=10)


def resnet(seed=0, backbone=False):
    """Return a model in which everything is other than a measurement would leave it."""
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10)
    model = ResNetForImageClassification(config).train()
    model = model.resnet if backbone else model
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    norms[0].eval()
    norms[1].weight.requires_grad_(False)
    norms[2].register_forward_hook(lambda *_: None)
    next(model.parameters()).register_hook(lambda gradient: gradient)
    return model


def loaded(model):
    return LoadedModel(model, PROCESSOR, "the model")


def state(model):
    """Return everything that could be changed, by its name."""
    tensors = dict(chain(model.named_parameters(), model.named_buffers()))
    hooks = [name for name in vars(model) if name.endswith("_hooks")]
    modules = dict(model.named_modules())
    return {
        "config": copy.deepcopy(model.config.to_dict()),
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "hooks": {name: [len(vars(module)[kind]) for kind in hooks] for name, module in modules.items()},
        "hooks of parameters": [
            (len(p._backward_hooks or ()), len(p._post_accumulate_grad_hooks or ())) for p in model.parameters()
        ],
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "gradients": [parameter.grad for parameter in model.parameters()],
        "places": {name: (tensor.data_ptr(), tensor.dtype, tensor.device) for name, tensor in tensors.items()},
        "layout": {name: tensor.stride() for name, tensor in tensors.items()},
        "values": {name: tensor.detach().clone().numpy().tobytes() for name, tensor in tensors.items()},
    }


def random_state():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.fixture
def data():
    return load_data(DataSection(path="digits", splits=SPLITS), 0)


def stages(model, data, folder):
    examine = CLASSIFICATION.examiner(data, "test", None, predictor(CLASSIFICATION, 0))
    measured = Stages(MeasureSection(repeats=3, batch_size=2), examine, Units(folder / "units", 0))
    measured.add("teacher", loaded(model))
    measured.measure_all()
    measured.add_latency()


def trained_by_the_trainer(model, data, folder):
    arguments = TrainingArguments(
        str(folder), max_steps=1, use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True
    )
    trainer = DistillationTrainer(
        resnet(1),
        arguments,
        data_collator=Collator(PROCESSOR),
        train_dataset=data.train,
        teacher=model,
        loss_config=LOSS,
    )
    trainer.train()


def distilled(model, data, folder, augmentation="none"):
    context = Context(data.augmented(augmentation, PROCESSOR), PROCESSOR, None, 0, folder, log=lambda line: None)
    train(resnet(1), context, LOSS, loaded(model))


def probed(model, data, folder):
    recipe = Recipe.from_dict({"teacher": "a/b", "student": "c/d", "data": "digits", "steps": [{"distill": {}}]})
    few = few_images(data, ProbeSection(images=20), 0)
    probe = Probe(recipe, Blueprint(data.label_names, 16), few, loaded(model), 1, folder, print)
    assert probe(Candidate("resnet18", 0.25, {}), 0) >= 0


def prepared_for_neural_compressor(model, data, folder):
    from hf_compress.adapters.neural_compressor import DistillConfig, convert, prepare

    student = prepare(resnet(1), DistillConfig(teacher_model=model)).train()
    student(pixel_values=IMAGE.repeat(2, 1, 1, 1)).loss.backward()
    convert(student)


LOOKS = {
    "count_macs": lambda model, data, folder: count_macs(model, IMAGE),
    "peak_memory": lambda model, data, folder: peak_memory(model, IMAGE),
    "bytes_on_disk": lambda model, data, folder: bytes_on_disk(model),
    "cost": lambda model, data, folder: cost(model, IMAGE),
    "latency": lambda model, data, folder: measure_latency([model], [IMAGE], [1, 2], 1),
    "inspection": lambda model, data, folder: inspect_layers(model, IMAGE),
    "predict": lambda model, data, folder: predict(model, PROCESSOR, data.test),
    "evaluate": lambda model, data, folder: evaluate(model, PROCESSOR, data, "test"),
    "predict of an ensemble": lambda model, data, folder: predict(*ensemble(model), data.test),
    "stages": stages,
    "trace": lambda model, data, folder: trace(model, IMAGE),
    "trials of channels": lambda model, data, folder: ChannelPruner(model, IMAGE, PruneSection(round_to=1), set()),
    "fastest_multiple": lambda model, data, folder: fastest_multiple(model, IMAGE),
    "fold_batch_norms": lambda model, data, folder: fold_batch_norms(model, IMAGE),
    "fingerprint": lambda model, data, folder: fingerprint(loaded(model), CLASSIFICATION),
    "teacher, asked once": lambda model, data, folder: answered(
        data.train, loaded(model), Context(data, PROCESSOR, None, 0, folder, log=print), 1
    ),
}
LOOKS_AT_BACKBONES = {
    "embed": lambda model, data, folder: embed(loaded(model), data.test),
    "embedding_width": lambda model, data, folder: embedding_width(loaded(model)),
    "feature_examiner": lambda model, data, folder: feature_examiner(data, loaded(model))(loaded(model)),
}
TEACHERS = {
    "DistillationTrainer": trained_by_the_trainer,
    "distillation": distilled,
    "distillation, asked live": partial(distilled, augmentation="light"),
    "probes of a selection": probed,
    "Neural Compressor": prepared_for_neural_compressor,
}


def ensemble(model):
    one = as_one([loaded(model), loaded(resnet(1))], [list(range(10))] * 2)
    model.train()
    next(module for module in model.modules() if isinstance(module, _BatchNorm)).eval()
    return one.model, one.processor


@pytest.mark.parametrize("name", [*LOOKS, *LOOKS_AT_BACKBONES, *TEACHERS])
def test_a_model_stays_as_it_was(name, data, tmp_path):
    if name == "Neural Compressor" and importlib.util.find_spec("neural_compressor") is None:
        pytest.skip("needs Neural Compressor")
    model = resnet(backbone=name in LOOKS_AT_BACKBONES)
    before = state(model)
    (LOOKS | LOOKS_AT_BACKBONES | TEACHERS)[name](model, data, tmp_path)
    after = state(model)
    assert [key for key in before if before[key] != after[key]] == []


@pytest.mark.parametrize("name", ["predict", "evaluate", "cost", "latency", "inspection", "trace"])
def test_random_numbers_go_on_as_if_nothing_was_measured(name, data, tmp_path):
    model = resnet()
    before = random_state()
    LOOKS[name](model, data, tmp_path)
    assert random_state() == before


def test_a_frozen_model_can_be_measured():
    model = resnet().requires_grad_(False)
    trainable = resnet().requires_grad_(True)
    assert cost(model, IMAGE) == cost(trainable, IMAGE)


def test_training_leaves_the_config_of_the_student(data, tmp_path):
    student = resnet(1)
    before = copy.deepcopy(student.config.to_dict())
    train(student, Context(data, PROCESSOR, None, 0, tmp_path, log=lambda line: None), LOSS, loaded(resnet()))
    assert student.config.to_dict() == before


class TellsNothing(nn.Linear):
    def train(self, mode=True):
        super().train(mode)


def test_modules_whose_train_returns_nothing_are_kept_in_eval_mode():
    model = nn.Sequential(TellsNothing(2, 2), nn.Linear(2, 2))
    with kept_in_eval([model[0]]):
        assert not model.train()[0].training and model[1].training
    model.train()
    assert model[0].training


def test_modules_are_kept_in_eval_mode_by_blocks_that_may_be_nested():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    with kept_in_eval([model[0]]):
        with kept_in_eval(model):
            assert not model.train()[0].training and not model[1].training
        assert not model.train()[0].training and model[1].training
    assert model.train()[0].training
