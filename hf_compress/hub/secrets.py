"""Looks for what must never be published: access tokens and private keys, in files of any kind."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import get_token

from hf_compress.ground.errors import UsageError

CHUNK, LONGEST = 2**20, 2**12
KINDS = {  # each begins with fixed letters, for which whole files are searched fast
    "an access token of the Hub": rb"hf_(?:(?:oauth|jwt)_[\w.-]{30}|[A-Za-z0-9]{30})",
    "an access token of an organisation": rb"api_org_[A-Za-z0-9]{30}",
    "a private key": rb"-----BEGIN [A-Z0-9 ]{0,64}PRIVATE KEY(?: BLOCK)?-----",
}


def refuse_secrets(contents: Mapping[str, bytes | Path]) -> None:
    """Search every file, in pieces; UsageError names the file and the kind of secret, and never shows it."""
    token = (get_token() or "").encode()
    kinds = ({"your access token": re.escape(token)} if token else {}) | KINDS
    patterns = {kind: re.compile(pattern) for kind, pattern in kinds.items()}
    for name, content in contents.items():
        for piece in _pieces(content):
            for kind, pattern in patterns.items():
                if pattern.search(piece):
                    raise UsageError(
                        f"'{name}' contains {kind}: remove it, revoke it where it was of use, then publish"
                    )


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    """Read a file in pieces that overlap, so that nothing is cut in two; text in UTF-16 comes as ASCII, too."""
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        piece = b""
        while chunk := file.read(CHUNK):
            piece = piece[-LONGEST:] + chunk
            yield piece
            if b"\0" in piece:
                yield piece.replace(b"\0", b"")
