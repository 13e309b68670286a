"""A few architectures in two widths are enough to select from."""

import pytest

from hf_compress.selection import candidates
from hf_compress.students import STUDENTS

FEW = ("convnext_atto", "mobilenet_v1", "mobilenet_v2", "resnet18")


@pytest.fixture(scope="module", autouse=True)
def few_candidates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "WIDTHS", (0.25, 0.5))
        patch.setattr(STUDENTS, "_entries", {name: STUDENTS.get(name) for name in FEW})
        yield
