"""Successive halving: many candidates get a short training, the better half twice as long a one, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from hf_compress.run.selection.candidates import Candidate


def entrants(fitting: Sequence[Candidate], number: int) -> list[Candidate]:
    """Return the candidates that compete: the widest of every architecture, then the second widest, and so on.

    Of one architecture, the widest within a budget is the strongest; among architectures, the one with the most MACs
    comes first.
    """
    families: dict[str, list[Candidate]] = {}
    for candidate in sorted(fitting, key=lambda candidate: -candidate.costs["macs"]):
        families.setdefault(candidate.model, []).append(candidate)
    turns = zip_longest(*families.values())
    return [candidate for turn in turns for candidate in turn if candidate is not None][:number]


def halve(competing: Sequence[Candidate], probe: Callable[[Candidate, int], float]) -> list[Candidate]:
    """Rank candidates by successive halving (Jamieson and Talwalkar, 2016, algorithm 1).

    Args:
        competing: the candidates; their `accuracies` are filled in.
        probe: returns the validation accuracy of a candidate after a training for `2 ** rung` times the first's
            epochs.

    Returns:
        The candidates, best first: by the last rung that they reached, then by accuracy; fewer MACs win a tie.
    """
    alive, out, rung = list(competing), [], 0
    while len(alive) > 1:
        for candidate in alive:
            candidate.accuracies.append(probe(candidate, rung))
        alive.sort(key=lambda candidate: (-candidate.accuracies[-1], candidate.costs["macs"]))
        kept = (len(alive) + 1) // 2
        alive, out, rung = alive[:kept], alive[kept:] + out, rung + 1
    return alive + out
