"""What a user may wish, and what is asked for by it."""

import pytest

from hf_compress.auto.request import Request
from hf_compress.auto.wish import Wish
from hf_compress.ground.errors import UsageError


@pytest.mark.parametrize(("written", "read"), [("2MB", 2e6), ("1.5 kB", 1500.0), ("300", 300.0), (7, 7.0)])
def test_sizes_have_units(written, read):
    assert Wish(bytes=written).bytes == read


def test_limits_are_those_that_were_named_and_the_shorter_time_counts():
    assert Wish(max_drop=0.1).limits(teacher_ms=6.0) == {}
    assert Wish(faster=3, macs=5).limits(teacher_ms=6.0) == {"latency_ms": 2.0, "macs": 5}
    assert Wish(faster=3).limits(teacher_ms=6.0, sure=0.95) == {"latency_ms": pytest.approx(1.9)}
    limits = Wish(faster=3, latency_ms=1.5, memory="1kB").limits(6.0)
    assert limits == {"latency_ms": pytest.approx(1.35), "peak_memory_bytes": 1000}


def test_the_search_goes_by_the_cost_that_is_limited():
    assert Wish(parameters=5).steered_by == "parameters"
    assert Wish(bytes=5, faster=2).steered_by == "effort"
    assert Wish(max_drop=0.1).steered_by == "effort"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"wish": {}}, "name at least one of faster, latency_ms"),
        ({"wish": {"faster": 1}}, "'wish.faster' cannot be 1: input should be greater than 1"),
        ({"wish": {"bytes": "2 miles"}}, "write bytes as 2000000 or 2MB"),
        ({"wish": {"quicker": 2}}, "unknown key 'wish.quicker'"),
        ({"runtime": "onyx"}, "did you mean 'onnx'"),
        ({"minutes": 0}, "'minutes' cannot be 0"),
        ({"candidates": 1}, "'candidates' cannot be 1"),
        ({"overrides": {"steps": ["prune"]}}, "cannot set 'steps': the search decides that"),
        ({"space": {"macs": [1.5]}}, "'space.macs.0' cannot be 1.5"),
        ({"space": {"importance": ["l7"]}}, "l7"),
        ({"space": {"scope": ["costs"]}}, "'space.scope.0' cannot be 'costs'"),
        ({"space": {"scope": []}}, "'space.scope'"),
        ({"space": {"students": ["teacher"]}}, "copies of the model are named by 'width' and 'blocks'"),
        ({"space": {"students": [{"model": "a/b", "trust_remote_code": True}]}}, "runs no code of students"),
        ({"overrides": {"task": "features"}}, "'task: features' has no pruning"),
    ],
)
def test_what_cannot_be_asked_for(changes, sentence):
    with pytest.raises(UsageError) as refused:
        Request.of(**{"model": "a/b", "data": "digits", "wish": {"faster": 2}} | changes)
    assert sentence in str(refused.value)


def test_a_request_is_a_recipe_without_steps():
    request = Request.of("a/b@c", "digits", {"faster": 2}, "onnxruntime", overrides={"teacher.finetune.epochs": 5})
    recipe = request.recipe
    assert (recipe.teacher.model, recipe.teacher.revision, recipe.teacher.finetune.epochs) == ("a/b", "c", 5)
    assert (recipe.steps, [section.stage for section in recipe.deploy]) == ([], ["onnx"])
