"""Mixed pictures: what a mix is, and that it depends on seed, picture and view alone."""

import io
from dataclasses import replace
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_compress.data import Collator, load_data
from hf_compress.data.images import class_indices, spread
from hf_compress.data.mixing import Mixing, partner_of, random_of
from hf_compress.data.streaming import ImageStream
from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe
from hf_compress.sections.data import DataSection

PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8})
SPLITS = {"train": "train[:24]", "validation": "train[300:312]", "test": "train[400:412]"}
BOTH = {"mixup": 0.7, "cutmix": 1.0}


class Drawn:
    """Random numbers that are known beforehand."""

    def __init__(self, share, *integers, chance=0.0):
        self.share, self.whole, self.chance = share, iter(integers), chance

    def random(self):
        return self.chance

    def beta(self, first, second):
        assert first == second
        return self.share

    def integers(self, low, high=None):
        return next(self.whole)


def item(value, label, height=10, width=10):
    return {"view": torch.full((3, height, width), value, dtype=torch.uint8), "label": label}


def test_mixup_blends_all_pixels_by_the_share():
    mixed = Mixing(mixup=0.2).mixed(item(201, 4), item(100, 7), Drawn(0.3))
    assert mixed["view"].dtype == torch.uint8
    assert mixed["view"].unique().tolist() == [round(0.3 * 201 + 0.7 * 100)] == [130]
    assert (mixed["label"], mixed["partner_label"], mixed["share"]) == (4, 7, 0.3)


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((5, 5), (3, 8), (3, 8)), ((0, 9), (0, 3), (7, 10)), ((2, 6), (0, 5), (4, 9))],
)
def test_cutmix_shows_a_box_of_the_partner_and_tells_the_true_share_of_the_area(centre, rows, columns):
    """A share of 0.75 leaves a box of half the height and half the width, which the edges cut off."""
    mixed = Mixing(cutmix=1.0).mixed(item(200, 4), item(100, 7), Drawn(0.75, *centre))
    expected = torch.full((3, 10, 10), 200, dtype=torch.uint8)
    expected[:, slice(*rows), slice(*columns)] = 100
    assert torch.equal(mixed["view"], expected)
    assert mixed["share"] == pytest.approx(1 - (rows[1] - rows[0]) * (columns[1] - columns[0]) / 100)


def test_the_partner_takes_the_size_of_the_picture_which_stays_as_it_is():
    own = item(200, 0, 6, 14)
    for mixing in (Mixing(mixup=1.0), Mixing(cutmix=1.0)):
        mixed = mixing.mixed(own, item(100, 1, 20, 5), Drawn(0.5, 3, 7))
        assert mixed["view"].shape == (3, 6, 14)
        assert set(mixed["view"].unique().tolist()) <= {100, 150, 200}
    assert own["view"].unique().tolist() == [200]


@pytest.mark.parametrize(("kind", "values"), [({"mixup": 1.0}, 1), ({"cutmix": 1.0}, 2)])
def test_of_two_kinds_each_item_takes_one_with_equal_chance(kind, values):
    alone, both = Mixing(**kind), Mixing(mixup=1.0, cutmix=1.0)
    assert len(alone.mixed(item(200, 0), item(100, 1), Drawn(0.5, 5, 5, chance=0.9))["view"].unique()) == values
    blended = [
        len(both.mixed(item(200, 0), item(100, 1), random_of(0, n, 0))["view"].unique()) == 1 for n in range(400)
    ]
    assert 160 < sum(blended) < 240


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_have_the_beta_distribution(alpha):
    shares = [Mixing(mixup=alpha).mixed(item(0, 0), item(0, 1), random_of(0, n, 0))["share"] for n in range(1500)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_every_other_picture_may_be_the_partner():
    assert {partner_of(2, 5, random_of(0, n)) for n in range(100)} == {0, 1, 3, 4}
    assert partner_of(0, 1, random_of(0)) == 0


def load(**options):
    section = DataSection(path="digits", splits=SPLITS, **BOTH | options)
    return load_data(section, 3).augmented(section.augmentation, PROCESSOR)


def keys(items):
    return [(each["view"].numpy().tobytes(), each["partner_label"], each["share"]) for each in items]


def test_the_mix_of_a_picture_is_the_same_in_any_order_and_in_other_processes():
    train = load().train.in_epoch(5)
    expected = keys(train.__getitems__(list(range(24))))
    torch.manual_seed(9)
    order = [7, 3, 20, 3, 0]
    loader = DataLoader(train, 2, sampler=order, collate_fn=list, num_workers=2)
    assert keys(each for batch in loader for each in batch) == [expected[index] for index in order]
    assert keys([train[11]]) == [expected[11]]


def test_each_epoch_and_seed_mixes_anew_for_ever():
    train = load().train
    assert train.repeats_after is None
    epochs = [keys(train.in_epoch(epoch)[index] for index in range(24)) for epoch in range(4)]
    assert len({key for epoch in epochs for key in epoch}) == 4 * 24
    train.seed = 4
    assert not set(keys(train.in_epoch(0)[index] for index in range(24))) & set(epochs[0])


@pytest.mark.parametrize("augmentation", ["none", "light"])
def test_views_are_mixed_with_views_and_repeat(augmentation):
    train = load(augmentation=augmentation, views=2, cutmix=0.0).train
    plain = train.augmented(train.augment)
    assert train.repeats_after == 2
    for epoch in range(2):
        views = torch.stack([plain.in_epoch(epoch)[index]["view"] for index in range(24)]).float()
        items = train.in_epoch(epoch).__getitems__(list(range(24)))
        for index, mixed in enumerate(items):
            mixes = mixed["share"] * views[index] + (1 - mixed["share"]) * views
            fits = ((mixes - mixed["view"]).abs().amax(dim=(1, 2, 3)) < 0.501).tolist()
            partners = {train.labels[other] for other in range(24) if fits[other] and other != index}
            assert mixed["label"] == train.labels[index] and mixed["partner_label"] in partners
        assert keys(train.in_epoch(epoch + 2)[index] for index in range(24)) == keys(items)
    prints = {images.in_epoch(epoch).fingerprint for images in (plain, train) for epoch in range(4)}
    assert len(prints) == (4 if augmentation == "light" else 3)
    assert replace(train, mixing=Mixing(mixup=0.6)).fingerprint not in prints


def test_images_that_do_not_train_are_never_mixed():
    data, plain = load(augmentation="light"), load_data(DataSection(path="digits", splits=SPLITS), 3)
    for role in ("validation", "test"):
        shown = getattr(data, role)
        assert shown.mixing is None
        assert all(torch.equal(a["view"], b["view"]) for a, b in zip(shown, getattr(plain, role), strict=True))
    for items, order in (
        (spread(data.train, 24), spread(data.train, 24).indices),
        (data.train.without_augmentation(), range(24)),
    ):
        assert all(each.keys() == {"view", "label"} for each in items)
        assert all(
            torch.equal(each["view"], plain.train[place]["view"]) for each, place in zip(items, order, strict=True)
        )


def test_subsets_unlabelled_images_and_other_labels_stay_mixed():
    train = load().train
    more = train.subset(np.arange(6)).followed_by(train.with_labels([-100] * 24).without_augmentation())
    items = more.__getitems__(list(range(30)))
    assert len(more) == 30
    assert {each["label"] == -100 for each in items[:6]} == {False}
    assert {each["partner_label"] == -100 for each in items} == {True, False}


def test_a_batch_has_both_labels_and_the_shares_where_pictures_are_mixed():
    given = [{"label": 1, "partner_label": 2, "share": 0.25}, {"label": 0, "partner_label": -100, "share": 1.0}]
    batch = class_indices(given)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "labels": [1, 0],
        "partner_labels": [2, -100],
        "shares": [0.25, 1.0],
    }
    assert class_indices([{"label": 3}]).keys() == {"labels"}
    shown = Collator(PROCESSOR)(load().train.__getitems__([1, 2]))
    assert shown["partner_labels"].shape == shown["shares"].shape == (2,)


def numbered(count):
    for number in range(count):
        encoded = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(encoded, "PNG")
        yield {"image": {"bytes": encoded.getvalue(), "path": None}, "label": number}


def stream_of(mixing, files=1):
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_generator(numbered, features=features, gen_kwargs={"count": 40})
    return ImageStream(rows.to_iterable_dataset(num_shards=files), "image", "label", 40).augmented(None, mixing)


def test_an_image_of_a_stream_is_mixed_with_the_one_before_it():
    stream = stream_of(Mixing(mixup=1.0))
    first, again = list(stream), list(stream)
    assert keys(first) == keys(again)
    assert first[0]["partner_label"] == first[0]["label"] == first[0]["view"].unique().item()
    for before, each in pairwise(first):
        assert each["partner_label"] == before["label"]
        blended = each["share"] * each["label"] + (1 - each["share"]) * before["label"]
        assert each["view"].unique().item() == round(blended)
    assert len({each["share"] for each in first}) == 40
    stream.set_epoch(1)
    assert not {each["share"] for each in stream} & {each["share"] for each in first}
    assert all(each.keys() == {"view", "label"} for each in stream_of(None))


def test_workers_that_read_a_stream_mix_differently():
    stream = stream_of(Mixing(mixup=1.0), files=2)
    runs = [[each["share"] for each in DataLoader(stream, batch_size=None, num_workers=2)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 40


def recipe(**sections):
    values = {"teacher": "a/b", "student": "resnet18", "data": {"path": "digits", **BOTH}, "steps": ["distill"]}
    return Recipe.from_dict(values | sections)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {"steps": [{"distill": {"loss": "dkd"}}]},
            "'steps.0.distill' has loss 'dkd', which needs one label an image",
        ),
        ({"steps": [{"distill": {"losses": [{"loss": "kl"}, {"loss": "dkd"}]}}]}, "has loss 'dkd'"),
        ({"steps": ["finetune", {"prune": {"recovery": {"loss": "dkd"}}}]}, "'steps.1.prune' has loss 'dkd'"),
        ({"data": {"path": "digits", "mixup": -0.1}}, "'data.mixup' cannot be -0.1"),
        ({"data": {"path": "digits", "cutmix": 101}}, "'data.cutmix' cannot be 101"),
        ({"data": {"path": "digits", "mixup": True}}, "'data.mixup' cannot be True"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sections, says):
    with pytest.raises(UsageError, match=says):
        recipe(**sections)


def test_what_can_be_mixed_is_not_refused():
    losses = [{"loss": loss} for loss in ("mse", "mse_ce", "kl", "kl_ce", "dist", "ce")]
    mixed = recipe(steps=[{"distill": {"losses": losses}}, {"prune": {}}, "finetune"]).data
    assert (mixed.mixup, mixed.cutmix, mixed.mixes) == (0.7, 1.0, True)
    recipe(task="features", steps=["distill_features"])
    dkd = recipe(data="digits", steps=[{"distill": {"loss": "dkd"}}])
    assert not dkd.data.mixes
    assert recipe(data={"path": "digits", "mixup": 0.2, "views": 3}).data.views == 3
