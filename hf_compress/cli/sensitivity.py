"""`hf-compress sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_compress.cli.options import DATA_HELP, TrustRemoteCode, examples


@examples(
    "hf-compress sensitivity runs/quickstart --output runs/sensitivity",
    "hf-compress sensitivity microsoft/resnet-18 --data ./photos --ratio 0.3 --ratio 0.6 --output sensitivity",
    "hf-compress run my-recipe.yaml --set steps.prune.sensitivity=sensitivity/sensitivity.csv",
)
def sensitivity(
    folder: Annotated[str, typer.Argument(help="Run folder, folder in Hub form, or Hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for sensitivity.csv and sensitivity.png.")],
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} A run folder's own data when not given.")] = None,
    granularity: Annotated[Literal["channel", "weight"], typer.Option(help="What is pruned.")] = "channel",
    ratio: Annotated[list[float] | None, typer.Option(help="Fraction to remove; repeatable.")] = None,
    importance: Annotated[str, typer.Option(help="Criterion that ranks channels or weights.")] = "l1",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure how much accuracy each group of channels, or each weight, costs when a part of it is removed.

    Channels that must go together go together. Accuracy is that of validation images, without training in between; of
    a run with another task, it is the metric that decides there.
    """
    from hf_compress.tools.sensitivity import RATIOS
    from hf_compress.tools.sensitivity import sensitivity as measure

    measured = measure(
        folder,
        output,
        data=data,
        granularity=granularity,
        ratios=ratio or RATIOS,
        importance=importance,
        trust_remote_code=trust_remote_code,
    )
    worst = sorted(measured, key=lambda m: -m.drop)[:3]
    for m in worst:
        typer.echo(f"{m.name}: without {m.ratio:.0%} of {m.size} {m.metric.words} is {m.value:.4f} ({m.change:+.4f})")
    typer.echo(f"{len(measured)} measurements: {output / 'sensitivity.csv'}, {output / 'sensitivity.png'}")
