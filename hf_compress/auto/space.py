"""What may become of a model: the choices that are combined, and the recipe of a combination."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import Section, shorthand
from hf_compress.sections.models import TEACHER, StudentSection
from hf_compress.steps.pruning import CRITERIA
from hf_compress.steps.pruning.config import Scope

if TYPE_CHECKING:
    from optuna import Trial

Named = tuple[tuple[str, Any], ...]
Share = Annotated[float, Field(ge=0, lt=1)]
CHOSEN = ("macs", "importance", "scope", "blocks", "width", "image_size", "int8")
KINDS = ("importance", "scope", "int8")  # of the choices, those without an order
USUAL_SCOPE = "cost"
LEVELS = {False: (1, 1.4, 0.7), True: (1.5, 1, 2, 0.7)}
"""By whether they are in int8: shares of the MACs that may stay, with which models of each size are judged first. Int8
takes from half as long to as long, by processor and layer."""
FIRST_SIZES = 4
"""Of the input, most, at which models are judged first; those between are tried where they are the next step."""
UNTOUCHED = {"iterative": False, "recovery": {"epochs": 0}}


@dataclass(frozen=True)
class Choice:
    """A combination of choices, which is judged as one.

    Attributes:
        macs: share of the MACs that go with channels, by `importance` and `scope`.
        blocks: share of the residual blocks that go before.
        width: share of the channels that every layer keeps, as a thinner copy of the model has it; in place of `macs`.
        image_size: of the input in pixels; None leaves the model's.
        student: what `student` of a recipe names in place of the model itself, as pairs; nothing of it is pruned.
    """

    macs: float = 0.0
    importance: str = "obs"
    scope: str = USUAL_SCOPE
    blocks: float = 0.0
    width: float = 1.0
    image_size: int | None = None
    int8: bool = False
    student: Named = ()

    def __str__(self) -> str:
        parts = [
            _in_words(dict(self.student)) if self.student else "",
            f"{self.blocks:.0%} of the blocks dropped" if self.blocks else "",
            f"{self.macs:.0%} of the MACs pruned by {self._ranking}" if self.macs else "",
            f"a copy of width {self.width:g}" if self.width < 1 else "",
            f"{self.image_size} pixels" if self.image_size else "",
            "int8" if self.int8 else "",
        ]
        return ", ".join(filter(None, parts)) or "as it is"

    @property
    def _ranking(self) -> str:
        return self.importance + (f" (scope {self.scope})" if self.scope != USUAL_SCOPE else "")

    @property
    def is_changed(self) -> bool:
        """Whether there is anything that a training could make good."""
        return bool(self.student or self.macs or self.blocks or self.width < 1 or self.image_size)

    @property
    def made(self) -> Choice:
        """The same as float32: files of both kinds are written of one model."""
        return replace(self, int8=False)

    def recipe(self, base: Recipe, round_to: int, training: dict[str, Any] | None = None) -> Recipe:
        """Return what makes this of the teacher of `base`; with `training`, the options of a last step `distill`."""
        steps: list[dict[str, Any]] = []
        if self.blocks and self.width == 1:
            steps.append({"prune": blocks_step(self.blocks)})
        if self.macs:
            steps.append({"prune": channels_step(self.macs, self.importance, self.scope, round_to)})
        if training is not None:
            steps.append({"distill": training})
        values = base.model_dump(mode="json", exclude_none=True)
        deployed = [section | {"int8": self.int8} for section in values["deploy"]]
        return Recipe.from_dict(values | {"student": self.section, "steps": steps, "deploy": deployed})

    @property
    def section(self) -> dict[str, Any]:
        """What `student` of the recipe has."""
        if self.student:
            return dict(self.student)
        thinner = {"width": self.width, "depth": 1 - self.blocks} if self.width < 1 else {}
        return {"model": TEACHER} | thinner | ({"image_size": self.image_size} if self.image_size else {})


class Space(Section):
    """The choices of a search; what a model or runtime does not offer is left out of it."""

    macs: list[Share] = Field(
        [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], min_length=1, description="Shares of the MACs that are pruned."
    )
    importance: list[str] = Field(["obs", "taylor"], min_length=1, description="By which criterion channels go.")
    scope: list[Scope] | None = Field(
        None,
        min_length=1,
        description="How groups of channels compete, as `scope` of the step `prune` says. Without this key: `cost` "
        "and `damage`, the one first that serves models of the task better.",
    )
    blocks: list[Annotated[float, Field(ge=0, le=0.9)]] = Field(
        [0.0, 0.25, 0.5], min_length=1, description="Shares of the residual blocks that are dropped."
    )
    width: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.75, 0.5, 0.25],
        min_length=1,
        description="Shares of the channels that every layer keeps (`student: {model: teacher, width: 0.5}`).",
    )
    image_size: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58],
        min_length=1,
        description="Sides of the input, as shares of the model's.",
    )
    int8: list[bool] = Field([False, True], min_length=1, description="Whether the deployed file is in int8.")

    students: list[Annotated[StudentSection, shorthand(StudentSection, "model")]] | None = Field(
        None,
        description="Models that learn from this one, as `student` of a recipe names them; none by []. Without this "
        "key: the registered architectures whose checkpoints can be had.",
    )

    @field_validator("students")
    @classmethod
    def _others(cls, sections: list[StudentSection] | None) -> list[StudentSection] | None:
        if any(section.model == TEACHER for section in sections or []):
            raise ValueError("copies of the model are named by 'width' and 'blocks'")
        if any(section.trust_remote_code for section in sections or []):
            raise ValueError("a search runs no code of students: leave 'trust_remote_code' out")
        return sections

    @field_validator("importance")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        return [CRITERIA.known(name) for name in names]


@dataclass(frozen=True)
class Options:
    """The choices that a model and its runtime offer.

    Attributes:
        round_to: what widths are multiples of.
        side: of the model's own input, in pixels.
    """

    macs: list[float]
    importance: list[str]
    scope: list[str]
    blocks: list[float]
    width: list[float]
    image_size: list[int | None]
    int8: list[bool]
    round_to: int
    side: int

    @property
    def names(self) -> list[str]:
        """The choices that are to be made."""
        return [name for name in CHOSEN if len(getattr(self, name)) > 1]

    @property
    def whole(self) -> Choice:
        """The model as it is, in float32."""
        return Choice(importance=self.importance[0], scope=self.scope[0])

    def suggested(self, trial: Trial) -> Choice:
        """Return what a trial of optuna suggests: by its place where choices have an order."""
        chosen = {name: getattr(self, name)[0] for name in CHOSEN}
        for name in self.names:
            choices = getattr(self, name)
            if name in KINDS:
                chosen[name] = trial.suggest_categorical(name, choices)
            else:
                chosen[name] = choices[trial.suggest_int(name, 0, len(choices) - 1)]
        return self.plain(Choice(**chosen))

    def parameters(self, choice: Choice) -> dict[str, Any]:
        """Return by what a trial of optuna suggests a choice."""
        values = {name: getattr(choice, name) for name in self.names}
        return {name: value if name in KINDS else getattr(self, name).index(value) for name, value in values.items()}

    def plain(self, choice: Choice) -> Choice:
        """Return a choice that names only what makes it, so that equal ones are equal."""
        choice = choice if choice.width == 1 else replace(choice, macs=0.0)
        return choice if choice.macs else replace(choice, importance=self.importance[0], scope=self.scope[0])

    def first(self, left: float, pixels_count: bool = True) -> list[Choice]:
        """Return what is judged before the search learns: the whole model, and about as much of it as may stay.

        A smaller picture and fewer channels share the work, since each alone costs more quality the farther it goes:
        at every size of the input as much is pruned as then has to go.

        Args:
            left: share of the MACs that a model may keep. MACs go with the square of the input's side and of the
                width.
            pixels_count: whether a smaller picture brings a model nearer to what it may cost.
        """
        kinds = sorted(self.int8)
        firsts = (self.macs, self.importance, self.scope, self.blocks, self.width, self.image_size)
        whole = Choice(*(choices[0] for choices in firsts), kinds[-1])
        sizes = self.image_size[:: ceil(len(self.image_size) / FIRST_SIZES)] if pixels_count else self.image_size[:1]

        def at(level: float) -> list[Choice]:
            amounts = [self._amount(size, level * left) for size in sizes]
            return [
                self.plain(replace(whole, image_size=size, macs=macs))
                for size, macs in zip(sizes, amounts, strict=True)
            ]

        first, second, *others = map(at, LEVELS[kinds[-1]])
        in_floats = [replace(choice, int8=kinds[0]) for choice in at(1)]  # int8 can slow thin layers down
        widths = sorted(self.width[1:], key=lambda width: abs(width**2 - left))
        every = [
            *(replace(whole, int8=int8) for int8 in kinds),
            *chain(first, second, in_floats, *others),
            *(replace(whole, width=width) for width in widths[:1]),
        ]
        return list(dict.fromkeys(every))

    def nearer(self, choice: Choice) -> list[Choice]:
        """Return what is one step nearer to the whole model in one of the choices that have an order."""
        found = []
        for name in self.names if not choice.student else []:
            before = [] if name in KINDS else self._around(name, choice)[0]
            found += [self.plain(replace(choice, **{name: each})) for each in before[-1:]]
        return found

    def _around(self, name: str, choice: Choice) -> tuple[list[Any], list[Any]]:
        """Return what is nearer to the whole model, and what is farther; nothing for a choice outside the space."""
        value, choices = getattr(choice, name), getattr(self, name)
        place = choices.index(value) if value in choices else None
        return ([], []) if place is None else (choices[:place], choices[place + 1 :])

    def farther(self, choice: Choice, excess: float) -> list[Choice]:
        """Return what is farther from the whole model in one of the choices that have an order, as far as is needed.

        Args:
            excess: how many times what it may cost the choice costs. MACs are taken for it, as in `first`.
        """
        left = {
            "image_size": self._share_of_pixels,
            "macs": lambda share: 1 - share,
            "blocks": lambda share: 1 - share,
            "width": lambda width: width**2,
        }
        found = []
        for name, of in left.items() if not choice.student else ():
            value, rest = getattr(choice, name), self._around(name, choice)[1]
            enough = [each for each in rest if of(each) * excess <= of(value)] or rest[-1:]
            found += [self.plain(replace(choice, **{name: each})) for each in enough[:1]]
        return [each for each in dict.fromkeys(found) if each != choice]

    def _amount(self, size: int | None, left: float) -> float:
        """Return the share of the MACs to prune at a size of the input, so that about `left` of the model's stay."""
        of_size = self._share_of_pixels(size)
        return min(self.macs, key=lambda macs: abs((1 - macs) * of_size - left))

    def _share_of_pixels(self, size: int | None) -> float:
        return ((size or self.side) / self.side) ** 2


def _in_words(student: dict[str, Any]) -> str:
    """Say which student a section names."""
    size = f" at {student['image_size']} pixels" if "image_size" in student else ""
    return student["model"] + (f" x{student['width']:g}" if student.get("width", 1) != 1 else "") + size


def channels_step(macs: float, importance: str, scope: str, round_to: int) -> dict[str, Any]:
    """Return the options of the step that prunes a share of the MACs, without training."""
    return UNTOUCHED | {
        "importance": importance,
        "scope": scope,
        "target": {"macs": macs},
        "floor": 0.05,
        "round_to": round_to,
    }


def blocks_step(share: float) -> dict[str, Any]:
    """Return the options of the step that drops a share of the residual blocks, without training."""
    return UNTOUCHED | {"granularity": "block", "target": {"sparsity": share}}
