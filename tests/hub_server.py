"""A Hugging Face Hub on the loopback interface, for the real client of huggingface_hub 2.x (Xet off).

Serves what the client asks for when it creates repositories, commits, opens pull requests, lists and downloads: the
answers, headers and error codes are those of the Hub. Large files travel by the LFS protocol, in parts where they are
large, and are served from a second host name, as from a content network. The server can be told to fail.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from re import search
from urllib.parse import parse_qs, unquote, urlsplit

import hub_transfer  # noqa: F401  adds its routes
from hub_jobs import Job  # adds its routes, too
from hub_routes import ROUTES
from hub_storage import MAIN, Objects, Refused, Repo, make_blob

KINDS = {"models": "model", "datasets": "dataset"}


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" matches `pattern`.

    Attributes:
        times: how many requests it spoils.
        status: answer this status instead.
        cut: read that many bytes of the request, then cut the connection.
        corrupt: change a byte of the body on its way.
        lose_answer: carry the request out, but cut the connection before the answer.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    message: str = "Internal Error"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    corrupt: bool = False
    lose_answer: bool = False


class Hub:
    """The server and what it holds; a context manager.

    Args:
        folder: where contents are kept.
        tokens: user name by access token.
        part_size: larger files are uploaded in parts of so many bytes.
    """

    def __init__(self, folder: Path, tokens: dict[str, str], part_size: int = 5_000_000):
        self.objects = Objects(folder)
        self.disk = folder.with_name("buckets")
        self.tokens = tokens
        self.expired: set[str] = set()
        self.part_size = part_size
        self.parts: dict[tuple[str, int], bytes] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.jobs: dict[str, Job] = {}
        self.buckets: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.leaks: list[str] = []
        self.lock = threading.Lock()
        handler = type("Handler", (Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str:
        """Another host name, so that the client sees another host and must not send its token there."""
        return f"http://localhost:{self.port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.http.shutdown()
        self.http.server_close()

    def create(self, name: str, kind: str = "model", **options) -> Repo:
        repo = Repo(kind, name, **options)
        repo.commit(MAIN, "initial commit", {".gitattributes": make_blob(self.objects, b"* text=auto\n")}, None)
        self.repos[kind, name] = repo
        return repo

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", **options) -> Repo:
        """Make a repository that holds `files`, without the client."""
        repo = self.create(name, kind, **options)
        blobs = {path: make_blob(self.objects, content) for path, content in files.items()}
        repo.commit(MAIN, "add files", blobs, repo.refs[MAIN])
        return repo

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The contents of a repository."""
        files = self.repo(name).resolve(revision).files
        return {path: self.objects.get(blob.sha256) for path, blob in files.items() if path != ".gitattributes"}

    def fail(self, pattern: str, **options) -> Fault:
        self.faults.append(Fault(pattern, **options))
        return self.faults[-1]

    def fault_for(self, line: str) -> Fault | None:
        with self.lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.times and search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(search(pattern, line)) for line in self.requests)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def handle_request(self) -> None:
        self.url = urlsplit(self.path)
        self.query = parse_qs(self.url.query)
        fault = self.hub.fault_for(f"{self.command} {self.url.path}")
        self.lose_answer = bool(fault and fault.lose_answer)
        if fault and fault.cut is not None:
            self.rfile.read(min(fault.cut, int(self.headers.get("Content-Length", fault.cut))))
            return self.cut()
        self.body = self.read_body()
        if fault and fault.corrupt:
            self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
        try:
            if fault and fault.status is not None:
                return self.answer(fault.status, {"error": fault.message}, fault.headers)
            self.user = self.authenticate()
            for method, pattern, handle in ROUTES:
                match = pattern.fullmatch(self.url.path)
                if match and method == self.command:
                    return handle(self, **{key: value and unquote(value) for key, value in match.groupdict().items()})
            self.hub.unknown.append(f"{self.command} {self.path}")
            raise Refused(404, "Not Found")
        except Refused as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.answer(refusal.status, {"error": refusal.message}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *_) -> None:
        pass

    def read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def cut(self) -> None:
        """Reset the connection: no lingering, no orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def answer(self, status: int, content: object = b"", headers: dict[str, str] | None = None) -> None:
        if self.lose_answer:
            return self.cut()
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def authenticate(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and self.headers["Host"].startswith("localhost"):
            self.hub.leaks.append(f"{self.command} {self.path}")
        if not token:
            return None
        if token in self.hub.expired:
            raise Refused(401, 'User Access Token "test" is expired')
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def repo(self, kind: str | None, name: str, action: str = "read") -> Repo:
        """Find a repository and check that the user may `read` or `write` it, or download its `files`."""
        repo = self.hub.repos.get((KINDS.get((kind or "models").rstrip("/"), "model"), name))
        if repo is None or (repo.private and self.user != repo.owner):
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if action == "files" and repo.gated and self.user != repo.owner:
            raise Refused(
                403 if self.user else 401,
                f"Access to model {name} is restricted and you are not in the authorized list.",
                "GatedRepo",
            )
        if action == "write" and self.user is None:
            raise Refused(401, "Invalid username or password.")
        if action == "write" and self.user != repo.owner:
            raise Refused(403, "You don't have the rights to write to this repository")
        return repo

    def json(self) -> dict:
        return json.loads(self.body)
