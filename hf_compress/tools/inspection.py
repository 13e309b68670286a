"""What a model is made of, layer by layer."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.checkpoint.rewrites import record_rewrites
from hf_compress.checkpoint.shapes import unpruned
from hf_compress.data.images import input_size
from hf_compress.device.timing import WARM_UP
from hf_compress.ground.looking import twin
from hf_compress.measure.cost import macs_by_module
from hf_compress.tools.evaluation import saved_task

TIMED_PASSES = 15


def inspect(name: str, trust_remote_code: bool = False) -> list[dict[str, Any]]:
    """Describe the layers of a saved model, in the order of its modules.

    Args:
        name: folder or Hub id.
        trust_remote_code: run Python code of the repository.

    Returns:
        One row a module that holds parameters itself: `layer`, `kind`, `shape` and `unpruned_shape` of its weight (or
        its first parameter), `rewrite` (the kind of rewrite that made it, or None), `parameters`, `sparsity` (fraction
        of zeros in the weight), `macs` for one image, and `time_share` (fraction of a forward pass on the CPU, median
        of 15).

    Raises:
        UsageError, RunError: see `models.load.load`, whatever the task.
    """
    loaded = saved_task(name).load(name, trust_remote_code=trust_remote_code)
    return inspect_layers(loaded.model, torch.zeros(1, 3, *input_size(loaded.processor)))


def inspect_layers(model: PreTrainedModel, image: Tensor) -> list[dict[str, Any]]:
    """Describe the layers of a model; see `inspect`."""
    model = twin(model)
    holders = {n: module for n, module in model.named_modules() if list(module.parameters(recurse=False))}
    original = dict(unpruned(model).named_modules())
    rewrites = {f"{name}.": record["kind"] for name, record in record_rewrites(model).items()}
    macs, shares = macs_by_module(model, image), _time_shares(model, holders, image)
    rows = []
    for name, module in holders.items():
        (key, weight), *_ = module.named_parameters(recurse=False)
        rows.append(
            {
                "layer": name,
                "kind": type(module).__name__,
                "rewrite": next((kind for prefix, kind in rewrites.items() if name.startswith(prefix)), None),
                "shape": list(weight.shape),
                "unpruned_shape": list(getattr(original[name], key).shape),
                "parameters": sum(p.numel() for p in module.parameters(recurse=False)),
                "sparsity": 1 - torch.count_nonzero(weight).item() / max(1, weight.numel()),
                "macs": macs.get(name, 0),
                "time_share": shares[name],
            }
        )
    return rows


def layer_table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table for the terminal, with a line of totals; 80 columns show all of it."""
    sparse = any(row["sparsity"] for row in rows)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer")
    table.add_column("kind", overflow="fold")
    table.add_column("weight", no_wrap=True)
    for heading in (*["zeros"] * sparse, "parameters", "MACs", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            LayerName(row["layer"]),
            row["kind"] + (f" ({row['rewrite']})" if row["rewrite"] else ""),
            _shape(row["shape"]) + (f"\nof {_shape(row['unpruned_shape'])}" * (row["unpruned_shape"] != row["shape"])),
            *[f"{row['sparsity']:.1%}" if row["sparsity"] else ""] * sparse,
            *_costs(row),
        )
    table.add_section()
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "macs", "time_share")}
    table.add_row("all of these", "", "", *[""] * sparse, *_costs(total))
    return table


@dataclass(frozen=True)
class LayerName:
    """The name of a layer, which breaks behind its dots."""

    name: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self.name.split("."))) + 1, len(self.name))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in self.name.split("."):
            dotted = f".{part}" if lines != [""] else part
            if len(lines[-1] + dotted) > options.max_width:
                lines.append("")
            lines[-1] += dotted
        yield from lines


def _costs(row: dict[str, Any]) -> tuple[str, str, str]:
    macs = f"{row['macs'] / 1e6:.2f} M" if row["macs"] else ""
    return f"{row['parameters']:,}", macs, f"{row['time_share']:.1%}"


def _shape(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))


def _time_shares(model: PreTrainedModel, modules: dict[str, nn.Module], image: Tensor) -> dict[str, float]:
    """Return the median share of a forward pass that each module takes, by its own clock."""
    spent: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}
    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: started.update({name: _now()})))
        hooks.append(
            module.register_forward_hook(
                lambda *_, name=name: spent.update({name: spent[name] + _now() - started[name]})
            )
        )
    shares: dict[str, list[float]] = {name: [] for name in modules}
    with torch.inference_mode():
        for turn in range(WARM_UP + TIMED_PASSES):
            spent.clear()
            start = _now()
            model(pixel_values=image)
            whole = _now() - start
            if turn >= WARM_UP:
                for name in modules:
                    shares[name].append(spent[name] / whole)
    for hook in hooks:
        hook.remove()
    return {name: torch.tensor(values).median().item() for name, values in shares.items()}


def _now() -> float:
    return time.perf_counter()
