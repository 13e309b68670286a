"""How large files reach the loopback Hub (Git LFS, whole or in parts), and how all files leave it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from hub_routes import FILES, route
from hub_storage import Refused, lfs_blob

if TYPE_CHECKING:
    from hub_server import Handler


@route("POST", f"{FILES}.git/info/lfs/objects/batch")
def lfs_batch(request: Handler, kind: str | None, name: str) -> None:
    request.repo(kind, name)
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    hub = request.hub
    objects = []
    for wanted in request.json()["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        answer = {"oid": oid, "size": size}
        if oid not in hub.objects:
            upload = {"href": f"{hub.storage_url}/lfs/{oid}"}
            if size > hub.part_size:
                parts = range(1, -(-size // hub.part_size) + 1)
                upload = {"href": f"{hub.url}/lfs/{oid}/complete", "header": {"chunk_size": str(hub.part_size)}}
                upload["header"] |= {str(part): f"{hub.storage_url}/lfs/{oid}/part/{part}" for part in parts}
            verify = {"href": f"{hub.url}/{kind or ''}{name}.git/info/lfs/objects/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    request.answer(200, {"transfer": "basic", "objects": objects})


@route("POST", f"{FILES}.git/info/lfs/objects/verify")
def lfs_verify(request: Handler, kind: str | None, name: str) -> None:
    lfs_blob(request.hub.objects, request.json()["oid"], request.json()["size"])
    request.answer(200, {})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_put(request: Handler, oid: str) -> None:
    _store(request, oid, request.body)


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})/part/(?P<number>[0-9]+)")
def lfs_put_part(request: Handler, oid: str, number: str) -> None:
    request.hub.parts[oid, int(number)] = request.body
    request.answer(200, headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/complete")
def lfs_complete(request: Handler, oid: str) -> None:
    parts = [request.hub.parts[oid, part["partNumber"]] for part in request.json()["parts"]]
    for part, content in zip(request.json()["parts"], parts, strict=True):
        if part["etag"].strip('"') != hashlib.md5(content).hexdigest():
            raise Refused(400, f"part {part['partNumber']} is not the one that was sent")
    _store(request, oid, b"".join(parts))


def _store(request: Handler, oid: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != oid:
        raise Refused(400, f"the content's SHA-256 is {found}, not the announced {oid}")
    request.hub.objects.put(content)
    request.answer(200)


@route("GET HEAD", f"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(request: Handler, kind: str | None, name: str, revision: str, path: str) -> None:
    repo = request.repo(kind, name, "files")
    commit = repo.resolve(revision)
    if path not in commit.files:
        message, headers = "Entry not found", {"X-Repo-Commit": commit.oid, "X-Error-Code": "EntryNotFound"}
        return request.answer(404, {"error": message}, headers | {"X-Error-Message": message})
    blob = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return _serve(request, blob.sha256, headers)
    location = f"{request.hub.storage_url}/content/{blob.sha256}"
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "Location": location}
    request.answer(302, headers=headers | linked)


@route("GET HEAD", "/content/(?P<sha256>[0-9a-f]{64})")
def content(request: Handler, sha256: str) -> None:
    _serve(request, sha256, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def _serve(request: Handler, sha256: str, headers: dict[str, str]) -> None:
    body = request.hub.objects.get(sha256)
    headers["Content-Type"] = "application/octet-stream"
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        return request.answer(200, body, headers)
    start, end = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
    if start >= len(body):
        return request.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    request.answer(206, body[start : end + 1], headers)
