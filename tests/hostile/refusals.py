"""What hostile input must end in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hf_compress.ground.errors import RunError, UsageError

LONGEST = 1010


def refusal(call: Callable[[], Any]) -> str:
    """Return the one sentence with which a call refuses its input; any other error fails the test."""
    with pytest.raises((UsageError, RunError)) as caught:
        call()
    sentence = str(caught.value)
    assert sentence
    assert sentence.isprintable(), "one line, and nothing that a terminal obeys"
    assert len(sentence) < LONGEST
    return sentence


def ends(call: Callable[[], Any], says: str | None) -> Any:
    """Return the result of a call where `says` is None; otherwise check that its refusal says that."""
    if says is None:
        return call()
    assert says in refusal(call)
    return None
