"""One commit to the Hub for a whole run folder, after it was checked; a failed push changes nothing there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from hf_compress.ground.errors import UsageError
from hf_compress.ground.hub_failures import (
    RETRIED,
    WAITS,
    limit_waits,
    not_published,
    patiently,
    pause,
    require_login,
    status_of,
)
from hf_compress.ground.manifest import MANIFEST, Manifest, entries
from hf_compress.hub.contents import CARD, Contents, checked_contents
from hf_compress.hub.one_file import file_contents
from hf_compress.sections.base import validate
from hf_compress.sections.publish import PublishSection

GIT_ATTRIBUTES = ".gitattributes"
MOST_NAMED = 20


@dataclass(frozen=True)
class PushPlan:
    """What a push would send: paths there and sizes in bytes, the rendered README.md; and what would be left here."""

    files: dict[str, int]
    card: str
    left: list[str]


@dataclass(frozen=True)
class Publication:
    """What is on the Hub now.

    Attributes:
        url: page of the commit, or of the pull request.
        changed: False when the Hub had everything already.
        removed: paths of what an earlier version had there and this one lacks.
        left: paths of what was not sent because the manifest does not name it.
    """

    commit: str
    url: str
    changed: bool
    removed: list[str]
    left: list[str]

    def __str__(self) -> str:
        lines = [f"published: {self.url}" if self.changed else f"nothing has changed since {self.url}"]
        lines += [f"removed there: {', '.join(self.removed)}"] if self.removed else []
        return "\n".join([*lines, *not_sent(self.left)])


def plan_push(
    folder: str | Path, to: str, *, include: Sequence[str] = (), trust_remote_code: bool = False, **options: Any
) -> PushPlan:
    """Check a run folder and return what `publish` would send; nothing leaves this machine. See `publish`."""
    section = validate(PublishSection, {"to": to, **options}, "publish")
    contents = checked_contents(Path(folder), section, include, trust_remote_code)
    return _plan(contents, _left(Path(folder), contents))


def publish(
    folder: str | Path, to: str, *, include: Sequence[str] = (), trust_remote_code: bool = False, **options: Any
) -> Publication:
    """Publish a run folder as one commit; publishing the same folder again sends nothing and makes no commit.

    What the run, `export` and the like wrote there is sent, as the folder's manifest names it. Of an earlier version
    in the repository goes what its own manifest names and this one lacks.

    The access token is the one of `hf auth login` or of the environment (`HF_TOKEN`).

    Args:
        folder: the run folder.
        to: repository, `user/name`; made when missing.
        include: glob patterns of further files in the folder to send (`notes.md`, `scripts/**`).
        trust_remote_code: run Python code of the folder when it is checked.
        **options: the other keys of `recipe.PublishSection`: private, revision, create_pr, message, license, template.

    Raises:
        UsageError: the folder is no run folder, the licence forbids or hides what may be done, an option is wrong, a
            file holds a secret or is a link, or the Hub does not let this login write there.
        RunError: the folder's model does not work, or the Hub is out of reach; the sentence tells the state there.
    """
    section = validate(PublishSection, {"to": to, **options}, "publish")
    require_login()
    contents = checked_contents(Path(folder), section, include, trust_remote_code)
    words = ["--trust-remote-code"] if trust_remote_code else []
    words += [word for pattern in include for word in ("--include", pattern)]
    return _Push(section, contents, _left(Path(folder), contents), _again(folder, section, words)).run()


def plan_file(folder: str | Path, file: str, to: str, base_model: str | None, **options: Any) -> PushPlan:
    """Return what `publish_file` would send; nothing leaves this machine."""
    section = validate(PublishSection, {"to": to, **options}, "publish")
    return _plan(file_contents(Path(folder), section, file, base_model), [])


def publish_file(folder: str | Path, file: str, to: str, base_model: str | None, **options: Any) -> Publication:
    """Publish a deployed int8 file as a repository of its own, which says of which model it is the quantized form.

    Args:
        folder: the run folder.
        file: path of the int8 file in it, such as `deploy/model.int8.onnx`; what lies beside it is sent, too.
        to: repository, `user/name`; made when missing.
        base_model: repository of the model that was quantized, where the run folder was published.
        **options: see `publish`; a template is for the card of a run.

    Raises:
        UsageError: see `file_contents` and `publish`.
        RunError: the Hub is out of reach; the sentence tells the state there.
    """
    section = validate(PublishSection, {"to": to, **options}, "publish")
    require_login()
    contents = file_contents(Path(folder), section, file, base_model)
    words = ["--file", file, "--base-model", str(base_model)]
    return _Push(section, contents, [], _again(folder, section, words)).run()


def not_sent(left: list[str]) -> list[str]:
    """Return the line that names what stays at home, if there is anything."""
    more = [f"and {len(left) - MOST_NAMED} more"] if len(left) > MOST_NAMED else []
    return [f"not sent: {', '.join([*left[:MOST_NAMED], *more])} (--include PATTERN sends it)"] if left else []


def _left(folder: Path, contents: Contents) -> list[str]:
    return [name for name in entries(folder) if name not in contents]


def _plan(contents: Contents, left: list[str]) -> PushPlan:
    sizes = {path: len(c) if isinstance(c, bytes) else c.stat().st_size for path, c in sorted(contents.items())}
    return PushPlan(sizes, cast(bytes, contents[CARD]).decode(), left)


def _again(folder: str | Path, section: PublishSection, more: list[str]) -> str:
    """Return how to publish `folder` in the same way once more, as a command line in a sentence."""
    words = ["hf-compress", "publish", str(folder)]
    for name, value in section.model_dump(exclude_defaults=True).items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return f"run `{shlex.join(words + more)}` again"


@dataclass
class _Push:
    """One push, and what is known about it when it fails."""

    section: PublishSection
    contents: Contents
    left: list[str]
    again: str
    api: HfApi = field(default_factory=lambda: HfApi(library_name="hf-compress"))
    made: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    sent: bool = False

    def run(self) -> Publication:
        limit_waits()
        try:
            self._open()
            head, commit = self._commit()
        except (*RETRIED, OSError, ValueError, RuntimeError) as error:
            raise not_published(error, self.section.to, self.sent, self.made, self.again) from None
        changed = commit.oid != head
        url = commit.pr_url or commit.commit_url
        return Publication(commit.oid, url, changed, self.removed if changed else [], self.left)

    def _open(self) -> None:
        """Make repository and branch where they are missing; never make something public that was to be private."""
        section = self.section
        try:
            info = patiently(self.api.model_info, section.to)
        except RepositoryNotFoundError as error:
            if section.create_pr or status_of(error) == 401:
                raise
            patiently(self.api.create_repo, section.to, private=section.private or None, exist_ok=True)
            self.made.append(f"the empty repository {section.to}")
        else:
            if section.private and not info.private:
                raise UsageError(f"{section.to} is public already: make it private in its settings, or choose another")
        branch = section.revision
        if branch and not branch.startswith("refs/"):
            try:
                patiently(self.api.model_info, section.to, revision=branch)
            except RevisionNotFoundError:
                patiently(self.api.create_branch, section.to, branch=branch, exist_ok=True)
                self.made.append(f"the branch {branch} of {section.to}")

    def _commit(self) -> tuple[str, CommitInfo]:
        """Upload, then commit everything at once on top of the head that was compared with.

        Each attempt compares anew: if an earlier commit arrived and only its answer was lost, nothing is left to do.
        """
        section = self.section
        first, waits = None, iter(WAITS)
        while True:
            info = patiently(self.api.model_info, section.to, revision=section.revision)
            head = str(info.sha)
            first = first or head
            outdated = self._outdated(head, {file.rfilename for file in info.siblings or []})
            self.removed = self.removed or outdated
            additions = [
                CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                for path, content in self.contents.items()
            ]
            removals = [CommitOperationDelete(path, is_folder=False) for path in outdated]
            self.api.preupload_lfs_files(section.to, additions, revision=section.revision, create_pr=section.create_pr)
            try:
                self.sent = True
                return first, self.api.create_commit(
                    section.to,
                    [*additions, *removals],
                    commit_message=section.message,
                    parent_commit=head,
                    revision=section.revision,
                    create_pr=section.create_pr,
                )
            except RETRIED as error:
                if section.create_pr and status_of(error) not in (429, 503):
                    raise  # the pull request may be open: a second one would be worse than a question
                pause(error, next(waits, None))

    def _outdated(self, head: str, there: set[str]) -> list[str]:
        """Return what an earlier publication wrote, as the manifest there says, and this one lacks."""
        if MANIFEST not in there:
            return []
        file = patiently(self.api.hf_hub_download, self.section.to, MANIFEST, revision=head)
        earlier = Manifest.parsed(Path(file).read_bytes())
        if earlier is None or earlier.kind != "run":
            return []
        return sorted((earlier.files.keys() & there) - self.contents.keys() - {GIT_ATTRIBUTES})
