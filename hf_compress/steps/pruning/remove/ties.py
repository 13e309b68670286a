"""Which groups may only go together, though the operations that read them do not say so: an embedding and its heads.

A forward pass that gives each head its share of an embedding (`C // num_heads`), or brings all heads back to its width
(`reshape(B, N, C)`), ties the two without an operation that joins their channels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations

from scipy.cluster.hierarchy import DisjointSet

from hf_compress.steps.pruning.tracing.groups import Group


def tied(groups: list[Group]) -> list[list[Group]]:
    """Return sets of `groups` that blocks tie, each in order: those that meet in one tensor, one of which has blocks.

    A set of which no two units could be told apart is left out.
    """
    at: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            at[member.name].append(group)
    sets = DisjointSet(groups)
    for meeting in at.values():
        for one, other in combinations(meeting, 2):
            if one.units != other.units and max(one.unit, other.unit) > 1:
                sets.merge(one, other)
    found = [[group for group in groups if group in some] for some in sets.subsets()]
    return [some for some in found if len(some) > 1 and math.gcd(*(group.units for group in some)) > 1]


def are_twins(one: Group, other: Group) -> bool:
    """Return whether two groups are equal parts of one tensor, as the halves that a split by `C // 2` makes."""
    places = [{m.axis for m in group.members if m.indices.size < m.axis.size} for group in (one, other)]
    return one.units == other.units and not places[0].isdisjoint(places[1])
