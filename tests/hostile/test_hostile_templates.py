"""Templates of a card that a stranger wrote: no way out of the sandbox, no end of time or memory, one sentence."""

import json
import os
import time

import pytest
from refusals import ends
from reports import report

from hf_compress.report.card import render_card

CARD = "---\n{{ card_data }}\n---\n"
CASES = {
    "plain": (CARD + "{{ title }}", None),
    "a loop over all numbers": (
        CARD + "{% for i in range(10**9) %}x{% endfor %}",
        "cannot be rendered: Range too big",
    ),
    "loops in loops": (
        CARD + "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "than",
    ),
    "a text of 10^10 characters": (CARD + "{{ 'x' * 10**10 }}", "cannot be rendered: it takes more than 1024 MiB"),
    "a power": (CARD + "{{ 10 ** (10 ** 8) }}", "than"),
    "a wide column": (CARD + "{{ '%9999999999d' | format(1) }}", "cannot be rendered"),
    "3 million characters": (CARD + "{{ 'x' * 3000000 }}", "it writes more than 2,000,000 characters"),
    "a class": (CARD + "{{ ''.__class__.__mro__ }}", "is unsafe"),
    "a function's globals": (CARD + "{{ cycler.__init__.__globals__.os.system('touch owned') }}", "unsafe"),
    "a format with attributes": (CARD + "{{ '{0.__class__}'.format(1) }}", "unsafe"),
    "a changed report": (CARD + "{% set x = report.update({'a': 1}) %}", "unsafe"),
    "another file": (CARD + "{% include '/etc/passwd' %}", "cannot be rendered"),
    "an unknown name": (CARD + "{{ nobody }}", "'nobody' is undefined"),
    "a broken tag": ("{% for %}", "is wrong in line 1"),
    "nested 5,000 levels deep": ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "cannot be"),
    "bytes": (b"\xff\xfe", "it is no text in UTF-8"),
    "3 MB": ("x" * 3_000_000, "it is longer than 2,000,000 characters"),
}


@pytest.fixture
def run(fenced):
    (fenced / "run").mkdir()
    (fenced / "run" / "report.json").write_text(json.dumps(report()))
    return fenced / "run"


@pytest.mark.parametrize("case", CASES)
def test_a_template_makes_a_card_or_is_refused(case, run, fenced):
    text, says = CASES[case]
    (fenced / "mine.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.monotonic()
    card = ends(lambda: render_card(run, fenced / "mine.md"), says)
    assert time.monotonic() - started < 60
    assert card is None or "resnet18" in card.text
    assert not (fenced / "owned").exists()


def test_a_pipe_and_an_endless_file_are_no_template(run, fenced):
    os.mkfifo(fenced / "pipe")
    for place in (fenced / "pipe", "/dev/zero", fenced, fenced / "missing"):
        ends(lambda place=place: render_card(run, place), "it is no regular file")


def test_the_token_is_not_within_reach(run, fenced, monkeypatch):
    """A template runs in a process that knows nothing of this one's environment."""
    from hf_compress.report.template import render_apart

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in render_apart("{{ self }}{{ x }}", {"x": 1})
