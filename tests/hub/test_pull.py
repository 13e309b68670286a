"""Teachers and images from the Hub: pinned, cached, and one sentence when they cannot be had."""

import json

import yaml


def test_commits_and_licence_are_in_recipe_and_report(run_folder, teacher, digits):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    report = json.loads((run_folder / "report.json").read_text())
    commit = teacher.resolve("main").oid
    assert recipe["teacher"]["revision"] == commit
    assert report["teacher"] == {
        "id": "alice/teacher",
        "source": "hub",
        "revision": commit,
        "license": "apache-2.0",
        "base_model": "alice/teacher",
    }
    assert recipe["data"]["revision"] == report["data"]["revision"] == digits.resolve("main").oid
    assert report["student"] is None
