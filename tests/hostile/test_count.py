"""There are as many hostile cases as promised, counted from their tables."""

import test_hostile_data
import test_hostile_images
import test_hostile_models
import test_hostile_modules
import test_hostile_recipes


def test_at_least_200_cases():
    tables = {
        "recipes": test_hostile_recipes.CASES,
        "images": test_hostile_images.CASES,
        "data": [*test_hostile_data.CASES, *test_hostile_data.SECTIONS],
        "models": [*test_hostile_models.CASES, *test_hostile_models.NAMES, *test_hostile_modules.CASES],
    }
    counts = {name: len(set(cases)) for name, cases in tables.items()}
    assert sum(counts.values()) >= 200
    assert min(counts.values()) >= 25, "every kind of input has its share"
