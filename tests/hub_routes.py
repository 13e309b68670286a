"""What the loopback Hub answers: users, repositories, commits, branches and pull requests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from hub_storage import MAIN, Blob, Refused, Repo, card_errors, card_metadata, lfs_blob, make_blob

if TYPE_CHECKING:
    from hub_server import Handler, Hub

ROUTES: list[tuple[str, re.Pattern, Callable]] = []
REPO = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
FILES = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)"


def route(methods: str, pattern: str):
    def store(handle: Callable) -> Callable:
        ROUTES.extend((method, re.compile(pattern), handle) for method in methods.split())
        return handle

    return store


@route("GET", "/api/whoami-v2")
def whoami(request: Handler) -> None:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    request.answer(200, {"type": "user", "name": request.user, "fullname": request.user, "orgs": [], "auth": {}})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Handler) -> None:
    errors = [{"message": text} for text in card_errors(request.json()["content"])]
    request.answer(400 if errors else 200, {"errors": errors, "warnings": []})


@route("POST", "/api/repos/create")
def create_repo(request: Handler) -> None:
    wanted = request.json()
    owner = wanted.get("organization") or request.user
    kind, name = wanted.get("type") or "model", f"{owner}/{wanted['name']}"
    url = f"{request.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    if owner != request.user:
        raise Refused(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
    with request.hub.lock:
        if (kind, name) in request.hub.repos:
            return request.answer(409, {"error": "You already created this repo", "url": url})
        request.hub.create(name, kind, private=wanted.get("visibility") == "private")
    request.answer(200, {"url": url, "name": name})


@route("GET", f"{REPO}(/revision/(?P<revision>[^/]+))?")
def info(request: Handler, kind: str, name: str, revision: str | None) -> None:
    repo = request.repo(kind, name)
    commit = repo.resolve(revision or "main")
    card = commit.files.get("README.md")
    metadata = card_metadata(request.hub.objects.get(card.sha256).decode()) if card else None
    siblings = [{"rfilename": path} | (_sizes(blob) if "blobs" in request.query else {}) for path, blob in
                commit.files.items()]  # fmt: skip
    answer = {"_id": "0" * 24, "id": name, "author": repo.owner, "sha": commit.oid, "lastModified": commit.date}
    answer |= {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False}
    answer |= {"createdAt": commit.date, "downloads": 0, "likes": 0, "tags": (metadata or {}).get("tags") or []}
    request.answer(200, answer | {"cardData": metadata, "siblings": siblings})


def _sizes(blob: Blob) -> dict:
    lfs = {"lfs": {"oid": blob.sha256, "sha256": blob.sha256, "size": blob.size, "pointerSize": 130}}
    return {"size": blob.size, "blobId": blob.git_oid} | (lfs if blob.lfs else {})


def _entry(path: str, blob: Blob) -> dict:
    return {"type": "file", "path": path, "oid": blob.git_oid} | _sizes(blob)


def _folders(paths: list[str]) -> list[dict]:
    names = {path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)}
    return [
        {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
        for name in sorted(names)
    ]


@route("GET", f"{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
def tree(request: Handler, kind: str, name: str, revision: str, folder: str | None) -> None:
    commit = request.repo(kind, name).resolve(revision)
    entries = _folders(list(commit.files)) + [_entry(path, blob) for path, blob in commit.files.items()]
    if folder:
        entries = [entry for entry in entries if entry["path"].startswith(folder.rstrip("/") + "/")]
        if not entries:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
    if request.query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
        depth = folder.count("/") + 1 if folder else 0
        entries = [entry for entry in entries if entry["path"].count("/") == depth]
    request.answer(200, entries)


@route("POST", f"{REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Handler, kind: str, name: str, revision: str) -> None:
    commit = request.repo(kind, name).resolve(revision)
    form = request.json() if "json" in request.headers["Content-Type"] else parse_qs(request.body.decode())
    entries = _folders(list(commit.files)) + [_entry(path, blob) for path, blob in commit.files.items()]
    request.answer(200, [entry for entry in entries if entry["path"] in form["paths"]])


@route("GET", f"{REPO}/refs")
def refs(request: Handler, kind: str, name: str) -> None:
    repo = request.repo(kind, name)

    def under(prefix: str) -> list[dict]:
        found = [(ref, oid) for ref, oid in repo.refs.items() if ref.startswith(prefix)]
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid} for ref, oid in found]

    answer = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": []}
    request.answer(200, answer | {"pullRequests": under("refs/pr/")})


@route("POST", f"{REPO}/branch/(?P<branch>[^/]+)")
def branch(request: Handler, kind: str, name: str, branch: str) -> None:
    repo = request.repo(kind, name, "write")
    with repo.lock:
        if f"refs/heads/{branch}" in repo.refs:
            raise Refused(409, "Reference already exists")
        repo.refs[f"refs/heads/{branch}"] = repo.resolve((request.json() or {}).get("startingPoint", "main")).oid
    request.answer(200, {})


@route("POST", f"{REPO}/discussions")
def open_discussion(request: Handler, kind: str, name: str) -> None:
    repo = request.repo(kind, name)
    wanted = request.json()
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    with repo.lock:
        pull = _open_pull(request, repo, wanted["title"], wanted["description"])
    request.answer(200, {"num": pull["num"]})


def _open_pull(request: Handler, repo: Repo, title: str, description: str) -> dict:
    number = len(repo.pulls) + 1
    date = repo.resolve("main").date
    pull = {"num": number, "title": title, "description": description, "status": "open", "isPullRequest": True}
    pull |= {"author": {"name": request.user}, "createdAt": date, "repo": {"name": repo.name, "type": repo.kind}}
    repo.pulls.append(pull | {"changes": {"base": MAIN}, "filesWithConflicts": [], "events": [], "diff": ""})
    repo.refs[f"refs/pr/{number}"] = repo.refs[MAIN]
    return pull


@route("GET", f"{REPO}/discussions/(?P<number>[0-9]+)")
def discussion(request: Handler, kind: str, name: str, number: str) -> None:
    request.answer(200, request.repo(kind, name).pulls[int(number) - 1])


@route("POST", f"{REPO}/preupload/(?P<revision>[^/]+)")
def preupload(request: Handler, kind: str, name: str, revision: str) -> None:
    repo = request.repo(kind, name, "read" if "create_pr" in request.query else "write")
    files = repo.resolve(revision).files
    answer = []
    for file in request.json()["files"]:
        large = file["size"] > 10_000_000 or b"\0" in base64.b64decode(file["sample"])
        entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        answer.append(entry | ({"oid": files[file["path"]].etag} if file["path"] in files else {}))
    request.answer(200, {"files": answer})


@route("POST", f"{REPO}/commit/(?P<revision>[^/]+)")
def commit(request: Handler, kind: str, name: str, revision: str) -> None:
    """Everything is checked before anything is changed."""
    pull = "create_pr" in request.query
    repo = request.repo(kind, name, "read" if pull else "write")
    header, *operations = (json.loads(line) for line in request.body.splitlines())
    with repo.lock:
        head = repo.resolve(revision)
        if header["value"].get("parentCommit", head.oid) != head.oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            _apply(request.hub, files, operation["key"], operation["value"])
        errors = (
            card_errors(request.hub.objects.get(files["README.md"].sha256).decode()) if "README.md" in files else []
        )
        if errors:
            raise Refused(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        title = header["value"]["summary"]
        if pull:
            number = _open_pull(request, repo, title, header["value"].get("description", ""))["num"]
            ref, url = f"refs/pr/{number}", f"{request.hub.url}/{name}/discussions/{number}"
        else:
            ref, url = next(r for r in (f"refs/heads/{revision}", revision) if r in repo.refs), None
        made = repo.commit(ref, title, files, head.oid)
    answer = {"commitOid": made.oid, "commitUrl": f"{request.hub.url}/{name}/commit/{made.oid}", "success": True}
    request.answer(200, answer | ({"pullRequestUrl": url} if pull else {}))


def _apply(hub: Hub, files: dict[str, Blob], key: str, value: dict) -> None:
    path = value["path"]
    if path.startswith("/") or ".." in path.split("/"):
        raise Refused(400, f"Invalid path {path!r}")
    if key == "file":
        files[path] = make_blob(hub.objects, base64.b64decode(value["content"], validate=True))
    elif key == "lfsFile":
        files[path] = lfs_blob(hub.objects, value["oid"], value["size"])
    elif key == "deletedFile" and path in files:
        del files[path]
    else:
        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")


@route("GET", "/api/models")
def list_models(request: Handler) -> None:
    author, wanted = request.query["author"][0], set(request.query.get("filter", []))
    found = []
    for (kind, name), repo in request.hub.repos.items():
        if kind == "model" and repo.owner == author and not repo.private:
            card = repo.resolve("main").files.get("README.md")
            metadata = card_metadata(request.hub.objects.get(card.sha256).decode()) if card else None
            tags = (metadata or {}).get("tags") or []
            if wanted <= set(tags):
                found.append({"_id": "0" * 24, "id": name, "author": author, "private": False, "tags": tags})
    request.answer(200, found)
