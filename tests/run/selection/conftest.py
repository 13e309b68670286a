"""A few architectures in two widths are enough to select from."""

import pytest

from hf_compress.models.students import STUDENTS
from hf_compress.run.selection import candidates
from hf_compress.run.selection.candidates import Blueprint

FEW = ("convnext_atto", "mobilenet_v1", "mobilenet_v2", "resnet18")
COUNTED: dict[tuple, dict[str, float]] = {}


@pytest.fixture(scope="module", autouse=True)
def few_candidates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "STUDENT_WIDTHS", (0.25, 0.5))
        patch.setattr(STUDENTS, "_entries", {name: STUDENTS.get(name) for name in FEW})
        yield


@pytest.fixture(scope="module")
def costs_counted_once():
    """Searches of several tests count the same candidates, which takes longer than all else."""
    count = Blueprint.static_costs

    def static_costs(self, name, width):
        key = tuple(self.labels), self.image_size, name, width
        if key not in COUNTED:
            COUNTED[key] = count(self, name, width)
        return dict(COUNTED[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blueprint, "static_costs", static_costs)
        yield
