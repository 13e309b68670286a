"""Section `publish` of a recipe."""

import re

from pydantic import Field, field_validator, model_validator

from hf_compress.sections.base import Section


class PublishSection(Section):
    """Where the finished run folder is published; `hf-compress publish` has the same options."""

    to: str = Field(description="Repository on the Hub: user/name.")
    private: bool = Field(False, description="Make the repository private; a public one is refused.")
    revision: str | None = Field(None, description="Branch to commit to; made when missing.")
    create_pr: bool = Field(False, description="Open a pull request instead of committing.")
    message: str = Field("Publish with hf-compress", min_length=1, description="Commit message.")
    license: str | None = Field(None, description="Identifier of the licence; that of the teacher when not given.")
    template: str | None = Field(None, description="Jinja template of the card, instead of the package's own.")

    @field_validator("to")
    @classmethod
    def _is_an_id(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", value) or value.endswith(".git"):
            raise ValueError("a repository is named user/name")
        return value

    @field_validator("license")
    @classmethod
    def _is_an_identifier(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value):
            raise ValueError("give one of the Hub's licence identifiers, such as apache-2.0 or cc-by-4.0")
        return value

    @model_validator(mode="after")
    def _one_target(self):
        if self.create_pr and self.revision:
            raise ValueError("a pull request goes to the main branch: leave out create_pr or revision")
        return self
