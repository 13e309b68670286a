"""What the loopback Hub keeps: repositories with commits, branches and pull requests; contents in a folder."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

MAIN = "refs/heads/main"
RELATIONS = ("adapter", "finetune", "merge", "quantized")


class Refused(Exception):
    """An answer that is an error: status, message, and the code that the client's exceptions go by."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    sha256: str
    git_oid: str
    size: int
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]
    date: str


class Objects:
    """Contents by their SHA-256, each written whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        self.numbers = itertools.count()

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def __contains__(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        partial = self.folder / f"partial-{next(self.numbers)}"
        partial.write_bytes(content)
        partial.replace(self.path(sha256))
        return sha256

    def get(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[dict] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def owner(self) -> str:
        return self.name.partition("/")[0]

    def resolve(self, revision: str) -> Commit:
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if revision in self.commits:
            return self.commits[revision]
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def blob(self, commit: Commit, path: str) -> Blob:
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        return commit.files[path]

    def commit(self, ref: str, title: str, files: dict[str, Blob], parent: str | None) -> Commit:
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        seed = repr((self.kind, self.name, parent, title, sorted(files.items()), len(self.commits)))
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, title, files, date)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit


def make_blob(objects: Objects, content: bytes) -> Blob:
    """A regular file, under the name that git gives it."""
    git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return Blob(objects.put(content), git_oid, len(content), lfs=False)


def lfs_blob(objects: Objects, oid: str, size: int) -> Blob:
    """A large file, which must have been uploaded before; git keeps a pointer to it."""
    if oid not in objects or objects.path(oid).stat().st_size != size:
        raise Refused(400, f"LFS object {oid} of {size} bytes was not uploaded")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
    return Blob(oid, hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), size, lfs=True)


def card_metadata(content: str) -> dict | None:
    """The YAML at the top of a README.md; None where there is none."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", content, re.DOTALL)
    return None if match is None else yaml.safe_load(match.group(1))


def card_errors(content: str) -> list[str]:
    """The Hub's own rules for a card's metadata, as far as its documentation tells them."""
    try:
        data = card_metadata(content)
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"]
    if data is None:
        return []
    if not isinstance(data, dict):
        return ["the metadata is not a mapping"]
    errors = [
        f'"{key}" must be {kind}'
        for key, kind, holds in (
            ("license", "an identifier in lower case", lambda v: re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", str(v))),
            ("base_model_relation", f"one of {RELATIONS}", RELATIONS.__contains__),
            ("pipeline_tag", "a string", lambda v: isinstance(v, str)),
            ("library_name", "a string", lambda v: isinstance(v, str)),
            ("tags", "a list of strings", _strings),
            ("datasets", "a list of ids", lambda v: _ids(v if isinstance(v, list) else [v])),
            ("base_model", "an id or a list of ids", lambda v: _ids(v if isinstance(v, list) else [v])),
        )
        if data.get(key) is not None and not holds(data[key])
    ]
    for entry in data.get("model-index") or []:
        if not isinstance(entry.get("name"), str) or not isinstance(entry.get("results"), list):
            errors.append('"model-index" needs a name and results')
            continue
        for result in entry["results"]:
            complete = {"task", "dataset", "metrics"} <= set(result) and {"name", "type"} <= set(result["dataset"])
            if not complete or any("value" not in metric for metric in result["metrics"]):
                errors.append('a result of "model-index" needs task, dataset and metrics with values')
    return errors


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _ids(value: object) -> bool:
    return _strings(value) and all(re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", item) for item in value)
