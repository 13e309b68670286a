"""One small registry for everything that can be added by name: steps, students, losses, importance criteria."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from importlib.metadata import entry_points
from typing import Generic, ParamSpec, TypeVar

from hf_compress.ground.errors import UsageError

_T = TypeVar("_T")
_P = ParamSpec("_P")


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the list of candidates when none is near."""
    known = sorted(candidates)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; choose one of {', '.join(known)}"


def require_known(given: Iterable[str], *functions: Callable) -> None:
    """Refuse names of arguments that none of the functions has.

    Raises:
        UsageError: there is no such argument; with the nearest one.
    """
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for name in given:
        if name not in known:
            raise UsageError(f"there is no argument '{name}'{did_you_mean(name, known)}")


def suggesting(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function answer a keyword that it does not have as `require_known` does."""

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        require_known(kwargs, function)
        return function(*args, **kwargs)

    return called


class Registry(Generic[_T]):
    """Maps lower-case unique names to objects; packages add theirs through the entry point group `group`."""

    def __init__(self, kind: str, group: str):
        self.kind = kind
        self.group = group
        self._entries: dict[str, _T] = {}
        self._third_parties_loaded = False

    def register(self, name: str) -> Callable[[_T], _T]:
        """Return a decorator that stores its object under `name`; ValueError: it is not lower-case, or taken."""
        if name != name.lower():
            raise ValueError(f"{self.kind} name '{name}' must be lower-case")

        def store(entry: _T) -> _T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is already registered")
            self._entries[name] = entry
            return entry

        return store

    def get(self, name: str) -> _T:
        """Return the entry called `name`; raise UsageError, which names the nearest, where there is none."""
        self._load_third_parties()
        if name not in self._entries:
            raise UsageError(f"unknown {self.kind} '{name}'{did_you_mean(name, self._entries)}")
        return self._entries[name]

    def known(self, name: str) -> str:
        """Return `name`, for pydantic validators, which want a ValueError where there is no such entry."""
        try:
            self.get(name)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return name

    def __contains__(self, name: str) -> bool:
        self._load_third_parties()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load_third_parties()
        return iter(sorted(self._entries))

    def _load_third_parties(self) -> None:
        if not self._third_parties_loaded:
            self._third_parties_loaded = True
            for entry_point in entry_points(group=self.group):
                entry_point.load()
