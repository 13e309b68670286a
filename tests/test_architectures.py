"""Every family of the table goes through everything, and the page says what came out."""

import re

import pytest

from tests.architectures import CAPABILITIES, PAGE, examine, page
from tests.families import FAMILIES

REFUSED = {
    "siglip2": "Siglip2ForImageClassification makes no logits",
    "imagegpt": "ImageGPTForImageClassification makes no logits",
    "pp_lcnet": "PPLCNetForImageClassification makes no logits",
    "dinat": "requires the natten library",
}


ERROR = re.compile(r"(?<=error -)\d+(?=%)")  # solved on another processor, it may differ by a rounding
OFTEN = {"resnet", "mobilenet_v2", "vit", "swin", "deit", "timm resnet18", "siglip2"}


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family.name in OFTEN else pytest.mark.long) for family in FAMILIES],
    ids=[family.name for family in FAMILIES],
)
def test_a_family_passes_everything_or_says_why_not(family):
    if not family.available:
        pytest.skip("the shared models are not beside this checkout")
    row = examine(family)
    if family.name in REFUSED:
        assert REFUSED[family.name] in row.failure
    else:
        assert row.failure == ""
        assert list(row.done) == list(CAPABILITIES)


@pytest.mark.long
def test_the_page_is_current():
    committed = PAGE.read_text()
    lines = {line.split(" | ")[0]: f"{line}\n" for line in committed.splitlines()}
    rows = [examine(family).line() if family.available else lines[f"| {family.name}"] for family in FAMILIES]
    found = page(rows)
    errors, others = ([int(share) for share in ERROR.findall(text)] for text in (committed, found))
    assert others == pytest.approx(errors, abs=2), "run `python -m tests.architectures` and commit the page"
    assert ERROR.sub("", found) == ERROR.sub("", committed), "run `python -m tests.architectures` and commit the page"


def test_the_page_names_at_least_the_families_that_were_promised():
    complete = [family for family in FAMILIES if family.name not in REFUSED]
    assert len(complete) >= 28
