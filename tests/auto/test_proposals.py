"""Which candidates are judged: the same for the same seed, more and more of the good ones."""

from dataclasses import replace

import pytest

from hf_compress.auto.proposals import explore
from hf_compress.auto.request import Request
from hf_compress.auto.space import Choice, Options
from hf_compress.auto.wish import Wish
from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe
from hf_compress.tasks import TASKS

OPTIONS = Options(
    macs=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    importance=["obs", "l1"],
    scope=["cost", "damage"],
    blocks=[0.0, 0.25, 0.5],
    width=[1.0, 0.75, 0.5, 0.25],
    image_size=[None, 24],
    int8=[False, True],
    round_to=8,
    side=32,
)
FIRST = OPTIONS.first(0.5)
BASE = Recipe.from_dict({"teacher": "a/b", "data": "digits", "steps": [], "deploy": ["onnx"]})


def judged(choice):
    """Quality falls with all but int8, faster with l1: the front is int8, obs, whole input and blocks."""
    factor = (2 if choice.importance == "l1" else 1) * (1.5 if choice.scope == "cost" else 1)
    lost = factor * choice.macs**3 + choice.blocks + 0.3 * bool(choice.image_size) + (1 - choice.width)
    return 1 - lost, choice.width**2 * (1 - choice.macs) * (0.5 if choice.int8 else 1) * (1 - choice.blocks / 2)


def test_the_whole_model_comes_first_then_about_as_much_as_may_stay():
    first = OPTIONS.first(left=0.3)
    assert first[:2] == [Choice(), Choice(int8=True)]
    assert [(choice.macs, choice.image_size, choice.int8) for choice in first[2:12]] == [
        (0.6, None, True),
        (0.2, 24, True),  # 9 / 16 of the pixels, 0.8 of whose MACs are 0.45 of the model's
        (0.7, None, True),
        (0.5, 24, True),
        (0.7, None, False),
        (0.5, 24, False),
        (0.4, None, True),
        (0.0, 24, True),
        (0.8, None, True),
        (0.6, 24, True),
    ]
    assert first[12:] == [Choice(width=0.5, int8=True)]
    assert explore(OPTIONS, first, judged, 10, seed=0) == first[:10]
    assert len(replace(OPTIONS, int8=[True]).first(left=0.3)) == 10


def test_a_smaller_picture_is_not_tried_first_where_it_makes_no_file_smaller():
    first = OPTIONS.first(left=0.3, pixels_count=False)
    assert [choice.macs for choice in first[2:6]] == [0.6, 0.7, 0.7, 0.4]
    assert not any(choice.image_size for choice in first)
    assert not any(Wish(**wish).falls_with_pixels for wish in ({"bytes": 1e6}, {"parameters": 1e5}))
    assert all(
        Wish(**wish).falls_with_pixels for wish in ({"faster": 2, "bytes": 1e6}, {"memory": 1e6}, {"macs": 1e6})
    )


def test_of_many_sizes_every_other_one_is_tried_first():
    sizes = [None, 30, 28, 26, 24, 22, 20]
    first = replace(OPTIONS, image_size=sizes).first(left=0.3)
    assert [choice.image_size for choice in first[2:6]] == [None, 28, 24, 20]


def test_a_step_nearer_to_the_whole_model_is_one_level_of_each_choice_that_has_an_order():
    choice = Choice(0.1, "l1", "damage", image_size=24, int8=True)
    assert OPTIONS.nearer(choice) == [
        replace(choice, macs=0.0, importance="obs", scope="cost"),
        replace(choice, image_size=None),
    ]
    assert OPTIONS.nearer(Choice(width=0.75)) == [Choice()] and OPTIONS.nearer(Choice(int8=True)) == []
    assert OPTIONS.nearer(Choice(student=(("model", "resnet18"),))) == []


def test_a_space_may_lack_the_whole_model():
    options = replace(OPTIONS, macs=[0.3, 0.5], image_size=[24, 16], blocks=[0.25], width=[0.5])
    assert options.nearer(options.whole) == options.farther(options.whole, 2.0) == []
    assert options.nearer(Choice(0.5, image_size=24)) == [Choice(0.3, image_size=24)]
    with pytest.raises(UsageError, match=r"'space\.blocks\.1'"):
        Request.of("a/b", "digits", {"faster": 2}, space={"blocks": [0.0, 0.95]})


@pytest.mark.parametrize(
    ("choice", "excess", "steps"),
    [
        (Choice(), 1.0, [Choice(image_size=24), Choice(0.1), Choice(blocks=0.25), Choice(width=0.75)]),
        (Choice(), 1.5, [Choice(image_size=24), Choice(0.4), Choice(blocks=0.5), Choice(width=0.75)]),
        (Choice(0.6), 1.3, [Choice(0.6, image_size=24), Choice(0.7), Choice(0.6, blocks=0.25), Choice(width=0.75)]),
        (Choice(0.8, image_size=24), 9.0, [Choice(0.8, blocks=0.5, image_size=24), Choice(width=0.25, image_size=24)]),
        (Choice(student=(("model", "resnet18"),)), 2.0, []),
    ],
)
def test_a_step_towards_the_limits_is_as_far_as_is_needed(choice, excess, steps):
    assert OPTIONS.farther(choice, excess) == steps


def test_no_candidate_is_judged_twice_and_one_seed_gives_one_search():
    asked = []
    found = explore(OPTIONS, FIRST, lambda choice: asked.append(choice) or judged(choice), 30, seed=3)
    assert len(set(found)) == len(found) == 30 and asked == found
    assert explore(OPTIONS, FIRST, judged, 30, seed=3) == found
    assert explore(OPTIONS, FIRST, judged, 30, seed=4) != found
    assert all((choice.importance, choice.scope) == ("obs", "cost") for choice in found if not choice.macs)
    assert {choice.scope for choice in found if choice.macs} == {"cost", "damage"}
    assert not any(choice.macs for choice in found if choice.width < 1)


def test_a_search_that_was_killed_is_proposed_the_same_again():
    known = {}

    def killed(choice):
        if len(known) == 11 and choice not in known:
            raise KeyboardInterrupt
        return known.setdefault(choice, judged(choice))

    with pytest.raises(KeyboardInterrupt):
        explore(OPTIONS, FIRST, killed, 16, seed=1)
    assert len(known) == 11
    again = explore(OPTIONS, FIRST, lambda choice: known.get(choice) or judged(choice), 16, seed=1)
    assert again == explore(OPTIONS, FIRST, judged, 16, seed=1)
    assert again[:11] == list(known)


def test_it_learns_what_is_good():
    found = explore(OPTIONS, FIRST, judged, 40, seed=0)
    late = found[20:]
    assert sum(choice.int8 for choice in late) > len(late) / 2


def test_what_cannot_be_had_is_passed_over():
    found = explore(OPTIONS, FIRST, lambda choice: None if choice.int8 else judged(choice), 12, seed=0)
    assert any(choice.int8 for choice in found) and len(found) == 12


def test_it_ends_when_there_is_enough_or_nothing_more():
    asked = []
    assert len(explore(OPTIONS, FIRST, judged, 20, 0, is_enough=lambda: len(asked) == 4 or asked.append(1))) == 4
    small = Options([0.0, 0.5], ["obs"], ["cost"], [0.0], [1.0], [None], [False], 8, 32)
    assert set(explore(small, small.first(0.5), judged, 20, seed=0)) == {Choice(), Choice(0.5)}


def test_amounts_are_first_tried_in_the_scope_that_serves_the_task():
    options = replace(OPTIONS, scope=list(TASKS.get("detection").scopes))
    first = options.first(left=0.3)
    assert {choice.scope for choice in first if choice.macs} == {"damage"} and first[0] == options.whole
    assert OPTIONS.whole == Choice() != options.whole


def test_the_scope_stands_in_the_recipe_and_is_said_where_it_is_not_the_usual():
    for scope, said in (
        ("cost", "50% of the MACs pruned by obs"),
        ("damage", "50% of the MACs pruned by obs (scope damage)"),
    ):
        choice = Choice(0.5, scope=scope)
        (step,) = choice.recipe(BASE, 8).build_steps()
        assert (step.config.scope, step.config.target.macs, str(choice)) == (scope, 0.5, said)


def test_a_copy_of_the_model_is_a_student_that_loses_blocks_before_channels():
    copied = Choice(blocks=0.25, width=0.5, image_size=24).recipe(BASE, 8, {"epochs": 3})
    student = copied.student
    assert (student.model, student.width, student.depth, student.image_size) == ("teacher", 0.5, 0.75, 24)
    assert copied.step_names == ["distill"]
    assert Choice(0.5, blocks=0.25).recipe(BASE, 8).step_names == ["prune", "prune"]
