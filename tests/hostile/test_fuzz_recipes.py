"""Whatever stands in a recipe, reading it gives a recipe that writes itself down again, or one sentence, and soon."""

import copy
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_compress.cli.options import assignments
from hf_compress.ground.bounded_yaml import read_yaml
from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe
from hf_compress.sections.values import is_study, read_recipe, shipped_recipes
from hf_compress.steps import STEPS
from hf_compress.study.config import Study

SECONDS = 5
SHIPPED = {name: read_recipe(name) for name in shipped_recipes()}
NAMES = sorted(
    {key for model in (Recipe, *(STEPS.get(name).Config for name in STEPS)) for key in model.model_fields}
    | {"model", "path", "run", "runs", "ensemble", "finetune", "sparsity", "distill", "prune", "rewrite", "quickstart"}
)
fuzz = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(NAMES)
    | st.sampled_from(["auto", "teacher", "digits", "kl", "2:4", "1e-3", ".inf", "2024-01-01", "~", "null", "0x1F"])
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | leaves, inner, max_size=4),
    max_leaves=12,
)
yaml_like = st.text(alphabet="[]{}:,-&*<>!?|#%@`'\"\n\t\\ ab01.~=", max_size=60)
key_paths = st.lists(
    st.sampled_from([*NAMES, "0", "1", "99", "-1", "", "²", "__class__"]) | st.text(max_size=3), max_size=5
).map(".".join)


def check(make):
    """Call what gives a recipe; see that it can be written and read again, or was refused, in time."""
    started = time.process_time()
    try:
        recipe = make()
    except UsageError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1010
    else:
        again = Recipe if isinstance(recipe, Recipe) else Study
        assert again.from_dict(read_yaml(recipe.to_yaml())) == recipe
    assert time.process_time() - started < SECONDS


def check_file(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(content)
        check(lambda: Recipe.load(path))


def build(values, overrides=None):
    return (Study if is_study(values) else Recipe).from_dict(values, overrides)


@fuzz
@given(st.binary(max_size=100) | (st.text(st.characters(codec="utf-8"), max_size=60) | yaml_like).map(str.encode))
def test_any_file(content):
    check_file(content)


@fuzz
@given(st.sampled_from(sorted(SHIPPED)), st.data())
def test_any_damage_to_the_text_of_a_shipped_recipe(name, data):
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    check_file((text[:start] + data.draw(yaml_like) + text[end:]).encode())


@fuzz
@given(trees)
def test_any_tree(tree):
    check(lambda: build(tree))


@fuzz
@given(st.sampled_from(sorted(SHIPPED)), st.data())
def test_any_value_in_a_shipped_recipe(name, data):
    values = copy.deepcopy(SHIPPED[name])
    node = values
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(trees)
    if isinstance(node, dict) and data.draw(st.booleans()):
        node[data.draw(st.sampled_from(NAMES) | leaves)] = node.pop(key)
    check(lambda: build(values))


@fuzz
@given(st.sampled_from(sorted(SHIPPED)), st.lists(st.tuples(key_paths, trees), min_size=1, max_size=3))
def test_any_key_that_is_set(name, pairs):
    check(lambda: build(SHIPPED[name], dict(pairs)))


@fuzz
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20) | st.builds("{}={}".format, key_paths, yaml_like)))
def test_any_option_of_the_command_line(texts):
    check(lambda: build(SHIPPED["quickstart"], assignments(texts)))


def test_the_checks_can_fail():
    with pytest.raises(ZeroDivisionError):
        check(lambda: 1 / 0)
