"""Reads YAML that anyone may have written: plain values only, in bounded time and memory, as no library does."""

from typing import Any, ClassVar

import yaml

MOST_CHARACTERS = 200_000
MOST_VALUES = 10_000
MOST_LEVELS = 50
MOST_DIGITS = 100
TAG = "tag:yaml.org,2002:"
PLAIN = {TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
TOO_MANY = f"it holds more than {MOST_VALUES:,} values, its aliases written out"


class _Loader(yaml.SafeLoader):
    """Stops at what is too much before it is all read, and knows no dates, which no recipe holds."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(("timestamp", "value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self.values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > MOST_VALUES:
            raise ValueError(TOO_MANY)
        node = super().compose_node(parent, index)
        line = node.start_mark.line + 1
        if node.tag not in PLAIN:
            raise ValueError(f"line {line} has the tag '{node.tag.replace(TAG, '!!')}', which is no plain value's")
        if node.tag in (TAG + "int", TAG + "float") and len(node.value) > MOST_DIGITS:
            raise ValueError(f"line {line} has a number of more than {MOST_DIGITS} digits")
        return node


def read_yaml(text: str) -> Any:
    """Return the plain values of one YAML document.

    Anchors and merge keys work, as long as what they stand for, written out, keeps within the bounds.

    Raises:
        ValueError: it is not YAML, or holds more than plain values, a key twice, or more than the bounds allow; the
            message is one sentence.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it is longer than {MOST_CHARACTERS:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep") from None
    except LookupError as error:  # PyYAML's, of `!!bool maybe`
        raise ValueError(f"a value does not fit its tag ({error})") from None


def _count(node: yaml.Node, level: int = 1, before: int = 0) -> int:
    """Return how many values there are up to the end of a node, `before` of them before it, each alias written out."""
    line = node.start_mark.line + 1
    if level > MOST_LEVELS:
        raise ValueError(f"line {line} is nested more than {MOST_LEVELS} levels deep, its aliases written out")
    if before == MOST_VALUES:
        raise ValueError(TOO_MANY)
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        _refuse_duplicates(node)
        children = [child for pair in node.value for child in pair]
    before += 1
    for child in children:
        before = _count(child, level + 1, before)
    return before


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != TAG + "merge":
            if (key.tag, key.value) in seen:
                raise ValueError(f"line {key.start_mark.line + 1} has the key '{key.value}' a second time")
            seen.add((key.tag, key.value))
