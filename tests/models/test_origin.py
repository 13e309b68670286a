"""Licences that allow publishing, and what the card says about the sources of a model."""

import pytest

from hf_compress import save
from hf_compress.ground.errors import UsageError
from hf_compress.models.origin import lineage, origin, publishable_license
from hf_compress.models.students import build_registered


def source(license, id="google/teacher", source="hub"):
    return {"id": id, "source": source, "revision": "0" * 40, "license": license, "base_model": id}


@pytest.mark.parametrize("license", ["apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-sa-4.0", "openrail"])
def test_the_teachers_licence_is_carried(license):
    assert publishable_license({"teacher": source(license), "student": None}, None) == license


@pytest.mark.parametrize("license", ["cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-nd-3.0"])
def test_licences_without_derivatives_are_refused_unless_the_user_says_otherwise(license):
    report = {"teacher": source(license)}
    with pytest.raises(UsageError, match=rf"google/teacher is under {license}, which forbids derived works"):
        publishable_license(report, None)
    assert publishable_license(report, "mit") == "mit"


@pytest.mark.parametrize("license", [None, "other", "unknown"])
def test_unknown_licences_need_the_users_word(license):
    report = {"teacher": source(license)}
    with pytest.raises(UsageError, match=r"the licence of google/teacher is .*pass --license"):
        publishable_license(report, None)
    assert publishable_license(report, "apache-2.0") == "apache-2.0"


def test_two_licences_need_the_users_word():
    report = {"teacher": source("mit"), "student": source("gpl-3.0", "me/student")}
    with pytest.raises(UsageError, match=r"google/teacher \(mit\) and me/student \(gpl-3.0\)"):
        publishable_license(report, None)


def test_what_was_trained_from_nothing_has_no_licence_to_inherit():
    report = {"teacher": origin("resnet18", None), "student": origin("me/student", None, pretrained=False)}
    assert publishable_license(report, None) is None
    assert lineage(report | {"data": {"path": "digits", "revision": None}}) == {
        "base_model": None,
        "base_model_relation": None,
        "datasets": None,
    }


def test_base_models_and_data_of_the_hub_are_named():
    report = {"teacher": source("mit"), "student": source("mit", "me/student")}
    assert lineage(report | {"data": {"path": "me/photos", "revision": "1" * 40}}) == {
        "base_model": ["google/teacher", "me/student"],
        "base_model_relation": "finetune",
        "datasets": ["me/photos"],
    }


@pytest.mark.parametrize(
    ("card", "license", "base"),
    [
        ("---\nlicense: MIT\nbase_model: google/teacher\n---\n", "mit", "google/teacher"),
        ("---\nbase_model: [google/teacher, b/c]\n---\n", None, "google/teacher"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None, None),
        ("---\n: not: yaml: [\n---\n", None, None),
        ("no metadata", None, None),
        (None, None, None),
    ],
)
def test_a_folders_card_tells_licence_and_base_model(card, license, base, tmp_path, monkeypatch):
    built = build_registered("resnet18", ["cat", "dog"], width=0.125, image_size=32)
    save(built.model, tmp_path)
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    monkeypatch.chdir(tmp_path.parent)
    found = origin(tmp_path.name, None)  # "name/README.md" could be a Hub id
    assert (found["source"], found["license"], found["base_model"]) == ("folder", license, base)
