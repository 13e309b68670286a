"""How much of timm's families channel pruning shrinks: one small variant each, with random weights.

`python benchmarks/timm_survey.py --minutes 10` goes on where it stopped, and writes `results/timm_survey.md` from
`results/timm_survey.jsonl`. Each variant has 30 seconds of one core, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from hf_compress.checkpoint.labels import label_options
from hf_compress.ground.errors import CompressError
from hf_compress.measure.cost import count_parameters
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner

RESULTS = Path(__file__).with_name("results")
ROWS, PAGE = RESULTS / "timm_survey.jsonl", RESULTS / "timm_survey.md"
SECONDS, AMOUNT, SIDE, MOST = 30, 0.4, 64, 40e6
WORDS = "zepto atto femto pico nano xxs xx_small xxtiny xs x_small mini tiny s s0 s1 m0 t0 small b0 a0 lite 18"
LARGE = "gi(ant|gantic)|huge|large|enormous|base|_[lg]$"
INTRODUCTION = f"""# timm's families

Written by `python benchmarks/timm_survey.py`: one small variant of each family of timm, with random weights and
pictures of {SIDE} pixels where it takes them. One shot of channel pruning with `amount: {AMOUNT}` and `round_to: 2`;
the pruned model runs. *Everywhere* means that only the layer that gives the logits keeps its channels. Each had
{SECONDS} seconds of one core, and at most {MOST / 1e6:.0f} M parameters.

"""


def variants() -> dict[str, str]:
    """Return a small variant of each family: names that begin with the same letters."""

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(re.match(r"[a-z]+(\d(?=_|$))?", name)[0], []).append(name)
    return {family: min(names, key=_size) for family, names in sorted(families.items())}


def _size(name: str) -> tuple[int, int, int, str]:
    words = WORDS.split()
    rank = next((rank for rank, word in enumerate(words) if re.search(rf"(^|[_\d]){word}(_|$|\d)", name)), len(words))
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return bool(re.search(LARGE, name)), rank, max(numbers, default=0), name


def survey(name: str) -> dict[str, Any]:
    """Prune one variant, and return its row."""

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, side = _built(name)
    before = count_parameters(model)
    row = {"side": side, "parameters": before}
    try:
        pruner = ChannelPruner(model, torch.rand(1, 3, side, side), PruneSection(round_to=2, amount=AMOUNT), set())
        pruner.prune(model, AMOUNT)
    except CompressError as error:
        return row | {"gone": 0.0, "reasons": {str(error).partition(";")[0]: 1}}
    reasons = Counter(re.sub(r" in '[^']*'", "", reason) for reason in pruner.protected.values())
    reasons.pop("gives the logits", None)
    return row | {"gone": 1 - count_parameters(model) / before, "reasons": dict(reasons)}


def _built(name: str) -> tuple[Any, int]:
    """Return the model, and the side of a picture that it takes."""

    with torch.device("meta"), suppress(NotImplementedError):  # some look at values while they are built
        parameters = sum(weights.numel() for weights in timm.create_model(name).parameters())
        if parameters > MOST:
            raise ValueError(f"has {parameters / 1e6:.0f} M parameters, more than were tried")
    whole = timm.get_pretrained_cfg(name).input_size[-1]
    problem: Exception | None = None
    for side, arguments in ((SIDE, {}), (SIDE, {"img_size": SIDE}), (whole, {})):
        shown = {"input_size": [3, side, side]}
        options = {"architecture": name, "pretrained_cfg": shown, "model_args": arguments or None}
        try:
            config = TimmWrapperConfig(**options, **label_options([str(digit) for digit in range(10)]))
            model = AutoModelForImageClassification.from_config(config).eval()
            with torch.no_grad():
                model(pixel_values=torch.rand(1, 3, side, side))
            return model, side
        except Exception as error:  # whatever an architecture raises for another size
            problem = error
    raise problem


def _apart(name: str) -> dict[str, Any]:
    """Return the row of a variant, made in a process of its own that has so many seconds of one core."""
    start = time.monotonic()
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        used = time.process_time()
        try:
            row = survey(name)
        except Exception as error:  # the survey goes on
            row = {"failure": f"{error}".partition("\n")[0][:160]}
        row["seconds"] = round(time.process_time() - used, 1)
        os.write(send, json.dumps(row).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    took = f"not decided in {SECONDS} seconds" if time.monotonic() - start >= SECONDS else "its process ended"
    return json.loads(said) if said else {"failure": took}


def page(rows: list[dict[str, Any]], families: int) -> str:
    """Return the text of the page."""
    whole = sum(row.get("reasons") == {} for row in rows)
    failed = sum("failure" in row for row in rows)
    lines = [
        f"{len(rows)} of {families} families were tried: {whole} shrink everywhere, {len(rows) - whole - failed} in "
        f"part or not at all, with the reason, and {failed} were not decided.\n",
        "| family | variant | parameters | gone | seconds | kept whole (layers) |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["family"]):
        start = f"| {row['family']} | {row['variant']} |"
        if "failure" in row:
            lines.append(f"{start} | | | {row['failure'].replace('|', '/')} |")
            continue
        reasons = "; ".join(f"{reason} ({count})" for reason, count in row["reasons"].items())
        size = f"{row['parameters'] / 1e6:.1f} M"
        lines.append(f"{start} {size} | {row['gone']:.0%} | {row['seconds']} | {reasons or 'nothing'} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of this run; what is left is tried in the next")
    end = time.monotonic() + 60 * parser.parse_args().minutes
    warnings.simplefilter("ignore")
    chosen = variants()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    done = {row["variant"] for row in rows}
    for family, name in chosen.items():
        if name in done or time.monotonic() > end:
            continue
        rows.append({"family": family, "variant": name} | _apart(name))
        with ROWS.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        PAGE.write_text(page(rows, len(chosen)))
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
