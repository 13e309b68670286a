"""Reads YAML that anyone may have written: plain values only, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

MOST_CHARACTERS = 200_000
MOST_VALUES = 10_000
MOST_LEVELS = 50
MOST_DIGITS = 100
TAG = "tag:yaml.org,2002:"
PLAIN = {TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):
    """Stops at what is too much before it is all read, and knows no dates, which no recipe holds."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(("timestamp", "value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self.values = self.level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        self.level += 1
        line = self.peek_event().start_mark.line + 1
        if self.values > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values up to line {line}")
        if self.level > MOST_LEVELS:
            raise ValueError(f"line {line} is nested more than {MOST_LEVELS} levels deep")
        node = super().compose_node(parent, index)
        self.level -= 1
        if node.tag not in PLAIN:
            raise ValueError(f"line {line} has the tag '{node.tag.replace(TAG, '!!')}', which is no plain value's")
        if node.tag in (TAG + "int", TAG + "float") and len(node.value) > MOST_DIGITS:
            raise ValueError(f"line {line} has a number of more than {MOST_DIGITS} digits")
        return node

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """Look at the depth before the scanner does, whose time grows with its square."""
        if self.flow_level >= MOST_LEVELS:
            raise ValueError(f"line {self.line + 1} is nested more than {MOST_LEVELS} levels deep")
        super().fetch_flow_collection_start(token)


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
        _measure(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except LookupError as error:  # PyYAML's, of `!!bool maybe`
        raise ValueError(f"a value does not fit its tag ({error})") from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return how many values a node has, and how many levels, each alias written out.

    Args:
        known: what was found for each node; None while it is being looked at.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    line = node.start_mark.line + 1
    if id(node) not in known:
        known[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicates(node)
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value
        sizes, levels = zip((1, 0), *(_measure(child, known) for child in children), strict=True)
        known[id(node)] = sum(sizes), 1 + max(levels)
    if known[id(node)] is None:
        raise ValueError(f"the anchor in line {line} contains itself")
    size, level = known[id(node)]
    if size > MOST_VALUES:
        raise ValueError(f"line {line} begins what holds more than {MOST_VALUES:,} values, its aliases written out")
    if level > MOST_LEVELS:
        raise ValueError(f"line {line} begins what is nested more than {MOST_LEVELS} levels deep by aliases")
    return size, level


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != TAG + "merge":
            if (key.tag, key.value) in seen:
                raise ValueError(f"line {key.start_mark.line + 1} has the key '{key.value}' a second time")
            seen.add((key.tag, key.value))
