"""One commit to the Hub for a whole run folder, after it was checked; a failed push changes nothing there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from hf_compress.config import validate
from hf_compress.errors import UsageError
from hf_compress.hub.contents import CARD, checked_contents
from hf_compress.hub.failures import RETRIED, WAITS, explained, limit_waits, patiently, pause, status_of
from hf_compress.sections import PublishSection

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


@dataclass(frozen=True)
class Plan:
    """What a push would send.

    Attributes:
        files: path in the repository and size in bytes.
        card: the rendered README.md.
    """

    files: dict[str, int]
    card: str


@dataclass(frozen=True)
class Publication:
    """What is on the Hub now.

    Attributes:
        commit: the commit that holds the folder.
        url: page of the commit, or of the pull request.
        changed: False when the Hub had everything already.
    """

    commit: str
    url: str
    changed: bool


def plan(folder: str | Path, to: str, *, trust_remote_code: bool = False, **options: Any) -> Plan:
    """Check a run folder and return what `publish` would send; nothing leaves this machine. See `publish`."""
    section = validate(PublishSection, {"to": to, **options}, "publish")
    contents = checked_contents(Path(folder), section, trust_remote_code)
    sizes = {path: len(c) if isinstance(c, bytes) else c.stat().st_size for path, c in sorted(contents.items())}
    return Plan(sizes, contents[CARD].decode())


def publish(folder: str | Path, to: str, *, trust_remote_code: bool = False, **options: Any) -> Publication:
    """Publish a run folder as one commit; publishing the same folder again sends nothing and makes no commit.

    The access token is the one of `hf auth login` or of the environment (`HF_TOKEN`).

    Args:
        folder: the run folder.
        to: repository, `user/name`; made when missing.
        trust_remote_code: run Python code of the folder when it is checked.
        **options: the other keys of `recipe.PublishSection`: private, revision, create_pr, message, license, template.

    Raises:
        UsageError: the folder is no run folder, the licence forbids or hides what may be done, an option is wrong, or
            the Hub does not let this login write there.
        RunError: the folder's model does not work, or the Hub is out of reach. The repository is as it was before.
    """
    section = validate(PublishSection, {"to": to, **options}, "publish")
    require_login()
    contents = checked_contents(Path(folder), section, trust_remote_code)
    return _Push(section, contents, f"run `{_command(folder, section, trust_remote_code)}` again").run()


def require_login() -> None:
    """Raise UsageError when the client finds no access token, or one that cannot be sent.

    The latter would end in an error of the HTTP library that shows it.
    """
    token = get_token()
    if token is None:
        raise UsageError("publishing needs a login: run `hf auth login`, or set HF_TOKEN to a token that may write")
    if not (token.isascii() and token.isprintable()):
        raise UsageError("the access token has characters that no token has: copy it anew (`hf auth login`, HF_TOKEN)")


def _command(folder: str | Path, section: PublishSection, trust_remote_code: bool) -> str:
    """Return the command line that publishes `folder` in the same way."""
    options = section.model_dump(exclude_defaults=True) | ({"trust_remote_code": True} if trust_remote_code else {})
    words = ["hf-compress", "publish", str(folder)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(words)


class _Push:
    """One push, and what is known about it when it fails."""

    def __init__(self, section: PublishSection, contents: dict[str, bytes | Path], again: str):
        self.section = section
        self.contents = contents
        self.again = again
        self.api = HfApi(library_name="hf-compress")
        self.sent = False

    def run(self) -> Publication:
        limit_waits()
        try:
            self._open()
            head, commit = self._commit()
        except (*RETRIED, OSError, ValueError, RuntimeError) as error:
            raise explained(error, self.section.to, self.sent, self.again) from None
        return Publication(commit.oid, commit.pr_url or commit.commit_url, commit.oid != head)

    def _open(self) -> None:
        """Make repository and branch where they are missing; never make something public that was to be private."""
        section = self.section
        try:
            info = patiently(self.api.model_info, section.to)
        except RepositoryNotFoundError as error:
            if section.create_pr or status_of(error) == 401:
                raise
            patiently(self.api.create_repo, section.to, private=section.private or None, exist_ok=True)
        else:
            if section.private and not info.private:
                raise UsageError(f"{section.to} is public already: make it private in its settings, or choose another")
        if section.revision and not section.revision.startswith("refs/"):
            patiently(self.api.create_branch, section.to, branch=section.revision, exist_ok=True)

    def _commit(self) -> tuple[str, CommitInfo]:
        """Upload, then commit everything at once on top of the head that was compared with.

        Each attempt compares anew: if an earlier commit arrived and only its answer was lost, nothing is left to do.
        """
        section = self.section
        first = None
        for wait in (*WAITS, None):
            head = patiently(self.api.model_info, section.to, revision=section.revision).sha
            first = first or head
            operations = [
                CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                for path, content in self.contents.items()
            ]
            target = {"revision": section.revision, "create_pr": section.create_pr}
            self.api.preupload_lfs_files(section.to, operations, **target)
            try:
                self.sent = True
                return first, self.api.create_commit(
                    section.to, operations, commit_message=section.message, parent_commit=head, **target
                )
            except RETRIED as error:
                if section.create_pr and status_of(error) not in (429, 503):
                    raise  # the pull request may be open: a second one would be worse than a question
                pause(error, wait)
