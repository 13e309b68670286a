"""The table of a study, from reports made by hand."""

import pytest

from hf_compress.study.config import Study
from hf_compress.study.table import study_report

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}


def test_the_deviation_is_that_of_a_sample(tmp_path):
    """Of 0.5, 0.6 and 0.9 the mean is 2/3, and the squared distances from it sum to 0.26/3, two degrees of freedom."""
    seeds = [0, 1, 2]
    study = Study.from_dict(
        {"data": "digits", "seeds": seeds, "runs": {"one": {"student": TINY, "steps": ["finetune"]}}}
    )
    finished = {
        ("one", seed): {
            "rows": [{"quality": {"accuracy": accuracy}, "cost": {"parameters": 8, "macs": 9}}],
            **{"seconds": 1.0, "data": {}, "measure": {}},
        }
        for seed, accuracy in zip(seeds, (0.5, 0.6, 0.9), strict=True)
    }
    (row,) = study_report(study, finished, tmp_path, None)["rows"]
    assert row["quality"]["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert row["quality"]["accuracy"]["std"] == pytest.approx((0.26 / 3 / 2) ** 0.5)
