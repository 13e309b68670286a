"""Every seed that a recipe takes works, to the last; every other is refused in one sentence."""

import pytest
import torch
from transformers import ViTImageProcessor, set_seed

from hf_compress import Recipe, Study
from hf_compress.data import load_data
from hf_compress.ground.errors import UsageError
from hf_compress.models.students import build_registered
from hf_compress.run.seeds import Seeds
from hf_compress.run.selection.probe import few_images
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.sections.models import ProbeSection
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

LAST = 2**32 - 1
SMALL = {"model": "resnet18", "width": 0.0625, "image_size": 16}
TRAINING = {"epochs": 1}


def recipe(**values):
    data = {"path": "digits", "splits": {"train": "train[:40]", "validation": "train[40:80]", "test": "train[80:120]"}}
    return Recipe.from_dict({"student": SMALL, "data": data, "steps": [{"finetune": TRAINING}]} | values)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, LAST - 3, LAST - 1, LAST])
@pytest.mark.parametrize("teachers", [0, 1, 4])
def test_derived_seeds_differ_and_are_seeds(seed, teachers):
    member = SMALL | {"finetune": TRAINING}
    teacher = {0: None, 1: member}.get(teachers, {"ensemble": [member] * teachers})
    seeds = Seeds.of(recipe(seed=seed, teacher=teacher))
    assert seeds.recipe == seed
    assert len(seeds.teachers) == teachers
    derived = [seeds.student, *seeds.teachers]
    assert len(set(derived)) == len(derived)
    for value in (seeds.recipe, *derived):
        set_seed(value)
        assert torch.initial_seed() == value


def test_derived_seeds_are_what_they_were_where_there_is_room():
    member = SMALL | {"finetune": TRAINING}
    seeds = Seeds.of(recipe(seed=7, teacher={"ensemble": [member] * 3}))
    assert (seeds.student, seeds.teachers) == (8, [7, 9, 10])


def test_a_training_with_the_last_seed(tmp_path):
    student = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.0625, image_size=16)
    data = load_data(recipe().data, LAST)
    context = Context(
        data.augmented("light", student.processor), student.processor, None, LAST, tmp_path, log=lambda line: None
    )
    assert len(train(student.model, context, TrainingConfig(epochs=2))["epochs"]) == 2


def test_data_and_probes_take_the_last_seed():
    fractions = {"train": 0.5, "validation": 0.25, "test": 0.25}
    section = DataSection(path="digits", splits=fractions, labelled=0.5, augmentation="light", views=2)
    data = load_data(section, LAST)
    few = few_images(data, ProbeSection(images=20), LAST)
    few = few.augmented("light", ViTImageProcessor(size={"height": 8, "width": 8}))
    assert len(few.train) == 20
    assert few.train[0]["view"].shape == (3, 8, 8)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30, True, 0.5, "one", [1]], ids=str)
def test_what_is_no_seed_is_refused_in_one_sentence(seed):
    with pytest.raises(UsageError, match=r"^'seed' cannot be ") as refused:
        recipe(seed=seed)
    assert "\n" not in str(refused.value)
    study = {"data": "digits", "steps": [{"finetune": TRAINING}], "runs": {"one": {"student": SMALL}}}
    with pytest.raises(UsageError, match=r"^'seeds(\.0)?' cannot be ") as refused:
        Study.from_dict(study | {"seeds": [seed]})
    assert "\n" not in str(refused.value)
