"""Runs hf_compress as a user does, in new processes whose client talks to a loopback Hub.

The client reads its environment when it is imported, so each process is one of its own. They are forked from a server
that has imported torch and transformers already, which saves seconds each.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ALICE = "hf_AliceHasARecognisableToken"
BOB = "hf_BobHasARecognisableToken"
PRELOADED = ["torch", "transformers.pipelines", "hf_compress.run.pipeline", "hf_compress.steps.pruning.loop"]


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The sentence that the command line ended with."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


class Client:
    """A user's machine.

    Args:
        folder: its home; outputs of the processes are kept there.
        url: the Hub.
    """

    def __init__(self, folder: Path, url: str):
        self.folder = folder
        self.environment = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_DEBUG": "1",
        }
        self.number = 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, target: Callable, *arguments, **environment: str | None) -> Callable[[], Result]:
        """Run `target(*arguments)` in a process; return a function that waits for it."""
        self.number += 1
        log = self.folder / f"process-{self.number}"
        with changed_environment(self.environment):
            process = self.context.Process(target=_run, args=(log, environment, target, arguments))
            process.start()

        def finish() -> Result:
            process.join(600)
            assert process.exitcode is not None, f"{arguments} hangs"
            return Result(process.exitcode, *(log.with_suffix(end).read_text() for end in (".out", ".err")))

        return finish

    def start_cli(self, *arguments: object, **environment: str | None) -> Callable[[], Result]:
        return self.start(command_line, *map(str, arguments), **environment)

    def cli(self, *arguments: object, **environment: str | None) -> Result:
        return self.start_cli(*arguments, **environment)()

    def call(self, target: Callable, *arguments, **environment: str | None) -> Result:
        return self.start(target, *arguments, **environment)()


def command_line(*arguments: str) -> None:
    from hf_compress.cli import main

    sys.argv = ["hf-compress", *arguments]
    main()


def predict(source: str, target: Path) -> None:
    """Write what a model says about noise: through the pipeline, and as logits."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    import hf_compress  # noqa: F401  pruned models reload

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    pixels = AutoImageProcessor.from_pretrained(source)(image, return_tensors="pt")
    model = AutoModelForImageClassification.from_pretrained(source)
    with torch.inference_mode():
        logits = model(**pixels).logits
    torch.save({"logits": logits, "answers": pipeline("image-classification", model=source)(image)}, target)


def same_predictions(client: Client, first: object, second: object) -> bool:
    """Let two new processes, which may be those of one folder and one Hub id, look at the same image."""
    import torch

    found = []
    for number, source in enumerate((first, second)):
        target = client.folder / f"predictions-{number}"
        result = client.call(predict, str(source), target, HF_TOKEN=ALICE)
        assert result.code == 0, result.err
        found.append(torch.load(target))
    return torch.equal(found[0]["logits"], found[1]["logits"]) and found[0]["answers"] == found[1]["answers"]


def _run(log: Path, environment: dict[str, str | None], target: Callable, arguments: tuple) -> None:
    for number, end in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(end), os.O_CREAT | os.O_WRONLY), number)
    with changed_environment(environment):
        try:
            target(*arguments)
        except SystemExit:
            raise
        except BaseException:
            traceback.print_exc()
            sys.exit(99)


@contextlib.contextmanager
def changed_environment(values: dict[str, str | None]):
    before = dict(os.environ)
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
