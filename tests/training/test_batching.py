"""No training batch holds one image alone, whatever the number of images; and every other image is seen."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch import nn
from torch.utils.data import BatchSampler
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments, ViTImageProcessor

from hf_compress import Recipe, compress
from hf_compress.data import Collator, load_data
from hf_compress.data.images import ImageSplit
from hf_compress.data.sources import load_raw
from hf_compress.data.streaming import ImageStream
from hf_compress.ground.errors import RunError
from hf_compress.models.load import LoadedModel
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.steps.distillation import LossConfig
from hf_compress.steps.feature_distillation.training import distil_features
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.loop import prune_model
from hf_compress.tasks.features import FEATURES
from hf_compress.training.arguments import training_arguments
from hf_compress.training.batch_norms import reestimate_batch_norm, without_single
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.trainer import DistillationTrainer

PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8})


def classifier(norms=True):
    """Its last map is 1x1; without batch norms, one image is as good as many."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=10,
        downsample_in_first_stage=True,
    )
    model = ResNetForImageClassification(config)
    for name, module in [] if norms else list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())
    return model


@pytest.fixture(scope="module")
def digits():
    splits = {"train": "train[:200]", "validation": "train[300:330]", "test": "train[400:410]"}
    data = load_data(DataSection(path="digits", splits=splits), 0)
    return data


@pytest.fixture
def context(digits, tmp_path):
    """Return a function that makes a context with so many training images."""

    def build(images, folder="work", **options):
        data = replace(digits, train=digits.train.subset(np.arange(images)))
        return Context(data, PROCESSOR, None, 0, tmp_path / folder, log=lambda line: None, **options)

    return build


def watched(model):
    """Return a list that gets the number of images of every training batch."""
    sizes = []
    embedder = model.resnet.embedder
    embedder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])) if module.training else None)
    return sizes


@pytest.mark.parametrize(
    ("images", "batch_size", "kept"),
    [
        (97, 32, 96),
        (96, 32, 96),
        (98, 32, 98),
        (33, 32, 32),
        (31, 32, 31),
        (2, 32, 2),
        (3, 2, 2),
        (1, 32, 1),
        (5, 1, 5),
    ],
)
def test_only_an_image_that_would_be_alone_is_left_out(images, batch_size, kept):
    assert without_single(images, batch_size) == kept
    sizes = [len(batch) for batch in torch.arange(kept).split(batch_size)]
    assert 1 not in sizes or batch_size == 1 or images == 1
    assert images - kept <= 1


def labels_alone(model, context, config):
    train(model, context, config)


def from_a_teacher(model, context, config):
    train(
        model, context, LossConfig(loss="kl", **config.model_dump()), LoadedModel(classifier(), PROCESSOR, "teacher")
    )


def recovery(model, context, config):
    options = {"amount": 0.3, "iterative": False, "round_to": 1}
    prune_model(model, context, PruneSection(**options, recovery=config.model_dump()))


def of_features(model, context, config):
    teacher = LoadedModel(classifier().resnet, PROCESSOR, "teacher")
    distil_features(model.resnet, replace(context, teacher=teacher, task=FEATURES), config)


@pytest.mark.parametrize("work", [labels_alone, from_a_teacher, recovery, of_features])
def test_every_training_leaves_out_the_last_single_image(work, context):
    model = classifier()
    sizes = watched(model)
    work(model, context(17), TrainingConfig(epochs=2, batch_size=8))
    assert sizes.count(8) == 4
    assert 1 not in sizes


def test_another_image_is_left_out_in_each_epoch(context, monkeypatch):
    model = classifier()
    sizes = watched(model)
    here = context(17)
    seen, read = [], ImageSplit.__getitems__

    def watch(split, indices):
        seen.extend([set(indices)] if len(split) == 17 else [])
        return read(split, indices)

    monkeypatch.setattr(ImageSplit, "__getitems__", watch)
    train(model, here, TrainingConfig(epochs=6, batch_size=8))
    assert sizes == [8, 8] * 6
    left_out = [set(range(17)) - one - other for one, other in zip(seen[::2], seen[1::2], strict=True)]
    assert [len(images) for images in left_out] == [1] * 6
    assert len(set.union(*left_out)) > 2


def test_without_a_rest_of_one_all_images_are_seen(context):
    model = classifier()
    sizes = watched(model)
    train(model, context(18), TrainingConfig(epochs=1, batch_size=8))
    assert sizes == [8, 8, 2]


def interrupted(line):
    if "epoch 2" in line:
        raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_to_the_same_weights(context):
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=0.01)
    whole, broken, resumed = classifier(), classifier(), classifier()
    expected = train(whole, context(17, "whole"), config)
    here = replace(context(17, "broken", resumable=True), log=interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(broken, here, config)
    assert train(resumed, context(17, "broken", resumable=True), config) == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def short_of_memory(model, most):
    """Let torch's own allocator fail when more than `most` images come at once in training."""
    model.resnet.embedder.register_forward_pre_hook(
        lambda module, args: torch.empty(10**15) if module.training and len(args[0]) > most else None
    )
    return model


@pytest.mark.parametrize(
    ("most", "sizes"), [pytest.param(4, {8: 1, 4: 4}, marks=pytest.mark.long), (2, {8: 1, 4: 1, 2: 8})]
)
def test_smaller_batches_for_want_of_memory_hold_no_single_image(most, sizes, context):
    model = classifier()
    found = watched(model)
    train(short_of_memory(model, most), context(17), TrainingConfig(epochs=1, batch_size=8))
    assert {size: found.count(size) for size in set(found)} == sizes


@pytest.mark.parametrize(
    ("images", "workers", "sizes"),
    [(17, 0, [8, 8, 2]), (16, 0, [8, 8]), (18, 0, [8, 8, 2]), (5, 0, [5]), (1, 0, [2]), (34, 2, [8, 8, 8, 8, 2, 2])],
)
def test_a_stream_fills_the_last_batch_up(images, workers, sizes, tmp_path):
    rows = load_raw(DataSection(path="digits"), "data").rows["train"].select(range(40))
    rows = rows.to_iterable_dataset(num_shards=2).cast_column("image", datasets.Image(decode=False))
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=8,
        use_cpu=True,
        dataloader_num_workers=workers,
        remove_unused_columns=False,
    )
    stream = ImageStream(rows, "image", "label", images)
    trainer = DistillationTrainer(classifier(), arguments, Collator(PROCESSOR), train_dataset=stream)
    loader = trainer.get_train_dataloader()
    found = [len(batch["labels"]) for batch in loader]
    assert found == sizes
    assert len(loader) <= len(found)


@pytest.mark.parametrize(
    ("processes", "images", "expected"), [(1, 17, 18), (2, 17, 19), (2, 19, 19), (4, 18, 21), (9, 17, 24)]
)
def test_a_stream_has_two_images_for_each_process_in_the_last_batch(processes, images, expected):
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "nowhere"}]}).to_iterable_dataset()
    stream = ImageStream(rows, "image", None, images)
    stream.batch_size, stream.least = 8, processes + 1
    stream._endless = lambda: iter(range(100))
    assert len(list(stream)) == expected


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_processes_share_batches_without_a_single_image(processes, batch_size):
    """Accelerate fills the last batches of its shards up with images of the first ones."""
    for images in range(2, 40):
        sampler = BatchSampler(range(without_single(images, batch_size)), batch_size, drop_last=False)
        for rank in range(processes):
            assert 1 not in map(len, BatchSamplerShard(sampler, processes, rank))


def test_batch_norms_are_re_estimated_without_a_single_image(context):
    model = classifier()
    sizes = watched(model)
    reestimate_batch_norm(model, context(129))
    assert sizes == [128]


def test_batch_norms_are_re_estimated_where_the_model_is(context, monkeypatch):
    """Images come from the CPU; `meta` stands for a GPU, and computes nothing."""
    asked = []
    monkeypatch.setattr(torch.optim.swa_utils, "update_bn", lambda *given: asked.append(given[2].type))
    reestimate_batch_norm(classifier().to("meta"), context(8))
    assert asked == ["meta"]


def test_one_process_trains_on_one_device(context, tmp_path, monkeypatch):
    """Of two, torch's DataParallel would take both, and twice the batch."""

    def found(arguments):
        arguments._n_gpu = 2
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(found))
    arguments = training_arguments(TrainingConfig(epochs=1, batch_size=4), context(8), tmp_path)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)


@pytest.mark.parametrize(
    ("images", "batch_size", "says"),
    [(3, 1, "set 'batch_size' to 2 or more"), (1, 8, "give it more training images"), (1, 1, "give it")],
)
def test_single_images_are_refused_where_there_are_batch_norms_and_taken_elsewhere(images, batch_size, says, context):
    config = TrainingConfig(epochs=1, batch_size=batch_size)
    with pytest.raises(RunError, match=f"ResNetForImageClassification has batch norms, .*: {says}") as error:
        train(classifier(), context(images), config)
    assert "\n" not in str(error.value)
    model = classifier(norms=False)
    sizes = watched(model)
    train(model, context(images), config)
    assert sizes == [1] * images


@pytest.mark.long
def test_memory_for_a_single_image_is_too_little_for_batch_norms(context):
    with pytest.raises(RunError, match="has batch norms"):
        train(short_of_memory(classifier(), 1), context(8), TrainingConfig(epochs=1, batch_size=4))


@pytest.mark.parametrize("place", ["teacher", "student", "recovery"])
def test_a_recipe_that_asks_for_single_images_is_refused_before_anything_is_trained(place, tmp_path):
    small = {"model": "resnet18", "width": 0.0625, "image_size": 8}
    sizes = {
        name: {"epochs": 1, "batch_size": 1 if name == place else 8} for name in ("teacher", "student", "recovery")
    }
    recipe = Recipe.from_dict(
        {
            "teacher": small | {"finetune": sizes["teacher"]},
            "student": small,
            "data": "digits",
            "steps": [{"distill": sizes["student"]}, {"prune": {"recovery": sizes["recovery"]}}],
        }
    )
    lines = []
    with pytest.raises(RunError, match="set 'batch_size' to 2 or more"):
        compress(recipe, tmp_path / "out", log=lines.append)
    assert not [line for line in lines if "epoch" in line]


def test_the_trainer_for_scripts_leaves_out_the_last_single_image(tmp_path):
    model = classifier()
    sizes = watched(model)
    images = [{"pixel_values": torch.randn(3, 8, 8), "labels": number % 10} for number in range(17)]
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=8,
        num_train_epochs=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    DistillationTrainer(model, arguments, train_dataset=images).train()
    assert sizes == [8, 8]
