"""Sections of a recipe that name a model."""

from __future__ import annotations

from pydantic import Field, model_validator

from hf_compress.config import Section
from hf_compress.errors import UsageError
from hf_compress.selection.config import AUTO, BudgetSection, ProbeSection


class ModelSection(Section):
    """A model: a Hub id, a local folder, a timm checkpoint (`timm/...`), or the name of a registered architecture."""

    model: str = Field(description="Hub id, folder, `timm/...`, or a name that `hf-compress students` lists.")
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub repository.")
    trust_remote_code: bool = Field(False, description="Run the Python code that the repository contains.")
    width: float = Field(1.0, gt=0, description="Width multiplier of a registered architecture.")
    image_size: int | None = Field(None, ge=8, description="Input size in pixels of a registered architecture.")


class StudentSection(ModelSection):
    """The model that is compressed: `teacher` is a copy of the teacher, `auto` the best that fits a budget."""

    pretrained: bool = Field(True, description="Load the weights of a Hub id or folder; false starts from scratch.")
    budget: BudgetSection | None = Field(None, description="What a student that is selected (`auto`) may cost.")
    probe: ProbeSection | None = Field(None, description="How students are compared before one is selected.")

    @model_validator(mode="after")
    def _budget_belongs_to_auto(self):
        if self.model == AUTO:
            if self.budget is None:
                raise UsageError(
                    "'student.model: auto' needs 'student.budget', for example --set student.budget.latency_ms=5"
                )
            for option, default in (("width", 1.0), ("revision", None), ("pretrained", True)):
                if getattr(self, option) != default:
                    raise UsageError(
                        f"'student.{option}' does not go with 'student.model: auto': leave it at {default}"
                    )
        else:
            for option in ("budget", "probe"):
                if getattr(self, option) is not None:
                    raise UsageError(f"'student.{option}' selects a student: it needs 'student.model: auto'")
        return self
