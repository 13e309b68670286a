"""What can go wrong between us and the Hub: which failures pass by waiting, and what the user is told."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2
from huggingface_hub import get_session, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from hf_compress.ground.errors import CompressError, OutOfReach, RunError, UsageError

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)
LONGEST_WAIT = 60
PASSING = (408, 429, 500, 502, 503, 504)
RETRIED = (HfHubHTTPError, httpx2.TransportError, json.JSONDecodeError)  # the last: an overloaded proxy sends HTML
_T = TypeVar("_T")


def require_login() -> None:
    """Raise UsageError when the client finds no access token, or one that HTTP cannot send, and would show."""
    token = get_token()
    if token is None:
        raise UsageError("publishing needs a login: run `hf auth login`, or set HF_TOKEN to a token that may write")
    if not (token.isascii() and token.isprintable()):
        raise UsageError("the access token has characters that no token has: copy it anew (`hf auth login`, HF_TOKEN)")


def patiently(call: Callable[..., _T], *args, **options) -> _T:
    """Call the Hub, again after a pause when it is overloaded or the connection breaks.

    The client itself does so for uploads and downloads (`huggingface_hub.utils.http_backoff`), but not where it makes
    repositories and branches, asks for their state, and commits.
    """
    for wait in (*WAITS, None):
        try:
            return call(*args, **options)
        except RETRIED as error:
            pause(error, wait)


def limit_waits() -> None:
    """Let nobody sleep for longer than a minute because an answer asks for it: the user decides about that.

    The client obeys what stands there, whatever it is; without it, it waits for some seconds, and gives up.
    """
    hooks = get_session().event_hooks
    if _forget_long_wait not in hooks["response"]:
        hooks["response"].append(_forget_long_wait)
        get_session().event_hooks = hooks


def _forget_long_wait(response: httpx2.Response) -> None:
    for header, seconds in (("Retry-After", r"\s*(\d+)"), ("RateLimit", r".*\bt=(\d+)")):
        asked = re.match(seconds, response.headers.get(header, ""))
        if asked and int(asked[1][:9]) > LONGEST_WAIT:
            del response.headers[header]


def pause(error: Exception, wait: float | None) -> None:
    """Sleep as long as the Hub asks for, or `wait` seconds; raise `error` when it will not pass, or `wait` is None."""
    status = status_of(error)
    if wait is None or (status is not None and status not in PASSING):
        raise error
    asked = "" if status is None else error.response.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdigit() else wait
    reason = f"HTTP {status}" if status else "a broken connection"
    logger.warning("%s from the Hub: trying again in %g s", reason, seconds)
    time.sleep(seconds)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an answer that is an error, None for anything else."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def redacted(text: str) -> str:
    """Return `text` on one line and without the user's access token."""
    token = get_token()
    line = " ".join(text.split())
    return line.replace(token, "<token>") if token else line


def not_loaded(name: str, error: Exception) -> CompressError:
    """Return what transformers and huggingface_hub raise where a model cannot be loaded as one sentence."""
    chain = list(_chain(error))
    text = " ".join(str(error).split())

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if get_token() and any(isinstance(link, HfHubHTTPError) and status_of(link) == 401 for link in chain):
        return RunError(f"{name}: the Hub does not accept the access token; renew it: `hf auth login` or HF_TOKEN")
    if caused_by(GatedRepoError):
        return RunError(f"{name} is gated: ask for access on its Hub page, then `hf auth login`")
    if caused_by(RevisionNotFoundError):
        return UsageError(f"{name} has no such revision: check 'revision'")
    if caused_by(RepositoryNotFoundError, HFValidationError):
        return UsageError(f"there is no model '{name}' on the Hub or as a folder: check the id, or log in if private")
    if "weights_only" in text or "Unpickl" in text:
        return RunError(
            f"{name} cannot be loaded: its weights are a pickle that holds more than tensors, which could run code; "
            "have it saved as model.safetensors by someone you trust"
        )
    if "trust_remote_code" in text:
        return UsageError(f"{name} contains its own Python code: read it, then pass --trust-remote-code")
    unreachable = (OfflineModeIsEnabled, LocalEntryNotFoundError, RevisionResolutionError, ConnectionError)
    if caused_by(*unreachable, httpx2.TransportError) or "couldn't connect" in text.lower():
        return OutOfReach(
            f"{name} is not cached and the Hub is out of reach: check the network, or give a local folder"
        )
    if "preprocessor_config.json" in text or "image processor" in text.lower():
        return RunError(f"{name} has no usable preprocessor_config.json: add one to the repository or copy it local")
    return RunError(f"{name} cannot be loaded: {text}")


def not_published(error: Exception, repo: str, maybe_sent: bool, made: list[str], again: str) -> CompressError:
    """Turn what failed while publishing into one sentence.

    Args:
        maybe_sent: whether a commit was sent whose answer never came.
        made: what was made before it failed: the repository, a branch.
        again: the command that goes on.
    """
    links = list(_chain(error))
    answer = next((link for link in links if isinstance(link, HfHubHTTPError)), None)
    broken = any(isinstance(link, httpx2.TransportError) for link in links)
    uncertain = maybe_sent and (broken or (answer is not None and status_of(answer) >= 500))
    certain = f"only {' and '.join(made)} was made" if made else f"{repo} was left as it was"
    state = (
        f"whether the commit arrived in {repo} is unknown, and what is there already is not sent twice"
        if uncertain
        else f"{certain}, and what was uploaded is not sent again"
    )
    if answer is not None:
        kind, reason = _answered(answer, error, repo)
    elif broken:
        kind, reason = RunError, "the connection to the Hub broke"
    elif isinstance(error, json.JSONDecodeError):
        kind, reason = RunError, "the Hub answered with something that is not an answer of the Hub"
    else:
        kind, reason = RunError, redacted(str(error))
    return kind(f"publishing failed: {reason}; {state}: {again}")


def _answered(answer: HfHubHTTPError, error: Exception, repo: str) -> tuple[type[CompressError], str]:
    status = status_of(answer)
    said = redacted(answer.server_message or "")
    if status == 401:
        return (
            UsageError,
            f"the Hub does not accept the access token ({said}); renew it: `hf auth login` or HF_TOKEN",
        )
    if status == 403:
        return UsageError, f"this login may not write to {repo} ({said}); use a name of yours, or --create-pr"
    if isinstance(answer, RevisionNotFoundError):
        return UsageError, f"{repo} has no such revision"
    if isinstance(answer, RepositoryNotFoundError):
        return UsageError, f"there is no repository {repo} that this login may see"
    if status in (409, 412):
        return RunError, f"{repo} was changed by someone else meanwhile"
    if status in (413, 507):
        return RunError, f"the Hub has no room for the files (HTTP {status}: {said}); free some, or ask for more"
    if status == 429:
        return RunError, "the Hub asks for fewer requests (HTTP 429); wait some minutes"
    if status == 400 and isinstance(error, RuntimeError):
        return RunError, f"a file arrived damaged ({redacted(str(error))} {said})"
    return RunError, f"the Hub answered HTTP {status} ({said})"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
