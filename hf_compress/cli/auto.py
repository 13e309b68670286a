"""`hf-compress auto`: the best model of a device in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_compress.auto.request import Request
from hf_compress.auto.space import Space
from hf_compress.auto.wish import Wish
from hf_compress.cli.options import DATA_HELP, Json, Set, TrustRemoteCode, assignments, examples
from hf_compress.cli.run import interruptible, show_run
from hf_compress.cli.sections import Group, options_from
from hf_compress.ground import processes
from hf_compress.ground.progress import say
from hf_compress.run.inputs import refuse_missing
from hf_compress.sections.base import validate
from hf_compress.sections.values import read_recipe


@examples(
    "hf-compress auto google/vit-base-patch16-224 --data ./photos --faster 3 --max-drop 0.01 --finetune-epochs 5",
    "hf-compress auto runs/my-classifier --data ./photos --latency-ms 10 --runtime openvino --minutes 30",
    "hf-compress auto runs/my-classifier --data ./photos --bytes 2MB --runtime litert",
)
@options_from(Group("Wishes", "wish", Wish))
def auto(
    model: Annotated[str, typer.Argument(help="Hub id (ID@REVISION), timm/..., or folder.")],
    data: Annotated[str, typer.Option("--data", "--dataset", help=DATA_HELP, show_default=False)],
    values: dict[str, Any],
    runtime: Annotated[str, typer.Option(help="Where the model will run: as `export --to`.")] = "onnx",
    minutes: Annotated[float, typer.Option(help="For search and trainings, together.")] = 60.0,
    candidates: Annotated[int, typer.Option(help="How many are judged, most.")] = 24,
    space: Annotated[Path | None, typer.Option(help="YAML of choices, in place of the usual ones.")] = None,
    output: Annotated[Path, typer.Option(help="Run folder to make.")] = Path("runs/auto"),
    finetune_epochs: Annotated[
        int | None, typer.Option(help="Train the model on the data first; needed when its labels are not the data's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --output.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """Find the best model within your wishes, for one runtime.

    Candidates (pruned, thinner, with a smaller input, in int8, and combinations) are judged without training, students
    after a short one, the best of them trained, and the winner is decided on validation images. Ctrl-C finishes the
    best so far.
    """
    finetune = {} if finetune_epochs is None else {"teacher.finetune.epochs": finetune_epochs}
    request = Request.of(
        model,
        data,
        {key.removeprefix("wish."): value for key, value in values.items()},
        runtime,
        minutes,
        candidates,
        None if space is None else validate(Space, read_recipe(space), "space").model_dump(),
        seed,
        finetune | assignments(set_),
    )
    refuse_missing(request.recipe)
    from hf_compress.auto.running import find_best

    options = {"overwrite": overwrite, "resume": resume, "trust_remote_code": trust_remote_code}
    with interruptible(f"interrupted: '{output}' was not written"):
        result = find_best(request, output, log=say, **options)
    processes.end()
    show_run(result, json_)
