"""Which candidates are judged: optuna's tree-structured Parzen estimator proposes them.

Nothing of the search is stored: judgements are units of the run, and whoever tells them again is proposed the same.
"""

from __future__ import annotations

from collections.abc import Callable

from hf_compress.auto.space import Choice, Options

ASKED = 20  # times for every candidate that is judged: proposals repeat where little is left

FAILED = (-2.0, 2.0)  # quality and cost of what cannot be had, so that the like is not proposed again

Judge = Callable[[Choice], tuple[float, float] | None]
"""Returns quality, the higher the better, and cost of a candidate; None where it cannot be had."""


def explore(
    options: Options,
    first: list[Choice],
    judge: Judge,
    most: int,
    seed: int,
    is_enough: Callable[[], bool] = lambda: False,
) -> list[Choice]:
    """Have candidates judged, each once, and return them in that order.

    Args:
        first: those that are judged before the search learns.
        most: how many.
        seed: of the proposals: the same one and the same judgements give the same candidates.
        is_enough: asked before each candidate.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    for candidate in first:
        study.enqueue_trial(options.parameters(candidate))
    known: dict[Choice, tuple[float, float] | None] = {}
    for _ in range(ASKED * most):
        if len(known) >= most or is_enough():
            break
        trial = study.ask()
        candidate = options.suggested(trial)
        if candidate not in known:
            known[candidate] = judge(candidate)
        study.tell(trial, known[candidate] or FAILED)
    return list(known)
