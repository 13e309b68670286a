"""`hf-compress run --on MACHINE`: the run is another machine's, the question before it and the log are here."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import typer

from hf_compress.cli.output import show, show_json
from hf_compress.ground.errors import UsageError
from hf_compress.ground.progress import say
from hf_compress.run.inputs import refuse_local, refuse_missing
from hf_compress.run.permissions import permitted
from hf_compress.run.recipe import Recipe
from hf_compress.runtimes import RUNTIMES

if TYPE_CHECKING:
    from hf_compress.hub.jobs import Rental

TIME_LIMIT = "2h"


def run_on(
    machine: str,
    recipe: Recipe,
    as_json: bool,
    trust_remote_code: bool,
    *,
    time_limit: str | None,
    package: str | None,
    yes: bool,
) -> None:
    """Run a recipe on a machine of the Hub, or watch the job that does so already.

    Raises:
        UsageError: the recipe needs this machine's files, or does not publish; nobody says yes; see `hub.jobs`, too.
        Interrupted: the user pressed Ctrl-C; the job goes on.
    """
    from hf_compress.ground.hub_failures import require_login
    from hf_compress.hub import jobs

    if recipe.publish is None:
        raise UsageError(
            "what a rented machine makes is lost unless it is published: add 'publish' to the recipe, for example "
            "--set publish.to=user/name"
        )
    recipe = permitted(recipe, trust_remote_code, publish=True)
    refuse_missing(recipe)
    refuse_local(recipe)
    seconds = jobs.seconds_of(time_limit or TIME_LIMIT)
    require_login()
    rental = jobs.Rental(
        recipe=recipe.to_yaml(),
        to=recipe.publish.to,
        machine=jobs.machine_named(machine),
        seconds=seconds,
        package=package or _package(recipe),
        words=("--trust-remote-code",) if trust_remote_code else (),
    )
    job = jobs.earlier_job(rental)
    if job is not None and jobs.is_going(job):
        say(f"a job of this recipe is going on, on {job.flavor}: {job.url}")
    else:
        if job is not None:
            say(f"the last job of this recipe ended as {job.status.stage}: {job.url}")
        _ask(rental, yes)
        job = jobs.start(rental)
        say(f"started: {job.url} (Ctrl-C leaves it running)")
    job = jobs.watch(job, say)
    if as_json:
        show_json({"job": job.url, "published": rental.to})
    else:
        show(f"published: {rental.to}, by {job.url}")


def _ask(rental: Rental, yes: bool) -> None:
    """Say what is to be paid for, and let the user agree."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"{rental}\nStart it?", abort=True, err=True)
        return
    say(str(rental))
    if not yes:
        raise UsageError("renting a machine costs money, and nobody is here to be asked: agree by --yes")


def _package(recipe: Recipe) -> str:
    """Return this version, with the extras of the runtimes that the recipe names."""
    extras = sorted({extra for section in recipe.deploy if (extra := RUNTIMES.get(section.to).extra)})
    return f"hf-compress{'[' + ','.join(extras) + ']' if extras else ''}=={version('hf-compress')}"
