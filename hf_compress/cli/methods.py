"""`hf-compress prune` and `hf-compress distill`: recipes of one step, written as options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_compress.cli.options import DATA_HELP, Publish, Resume, Set, TrustRemoteCode, assignments, examples
from hf_compress.cli.run import run_recipe
from hf_compress.cli.sections import Group, options_from
from hf_compress.run.recipe import Recipe, model_overrides
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.models import StudentSection
from hf_compress.steps.pruning.config import PruneSection, PruningTarget, RecoveryConfig

Output = Annotated[Path, typer.Argument(help="Run folder to make: model, recipe and report.")]
Teacher = Annotated[
    str, typer.Option("--model", "--teacher", help="Hub id (ID@REVISION), timm/..., or folder.", show_default=False)
]
Dataset = Annotated[str, typer.Option("--dataset", "--data", help=DATA_HELP, show_default=False)]
FinetuneEpochs = Annotated[
    int | None, typer.Option(help="Train the teacher on the data first; needed when its labels are not the data's.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUTPUT.")]
DATA = Group("Data", "data", DataSection, only=("augmentation",))


@examples(
    "hf-compress prune --model ./my-classifier --dataset ./photos --amount 0.1 --iterative --max-drop 0.01 runs/small",
    "hf-compress prune --model microsoft/resnet-18 --finetune-epochs 5 --dataset ./photos --target-macs 0.5 runs/half",
)
@options_from(
    Group("Pruning", "steps.prune", PruneSection),
    Group("Stop at a size", "steps.prune.target", PruningTarget, prefix="target_"),
    Group("Training after each round", "steps.prune.recovery", RecoveryConfig),
    DATA,
)
def prune(
    output: Output,
    model: Teacher,
    dataset: Dataset,
    values: dict[str, Any],
    finetune_epochs: FinetuneEpochs = None,
    seed: Seed = 0,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    publish: Publish = False,
) -> None:
    """Prune a model; the same as a recipe with one step `prune`."""
    overrides = _teacher(model, finetune_epochs) | values | assignments(set_)
    sections = {"data": dataset, "steps": ["prune"], "seed": seed}
    options = {"trust_remote_code": trust_remote_code, "publish": publish}
    run_recipe(Recipe.from_dict(sections, overrides), output, overwrite=overwrite, resume=resume, **options)


@examples(
    "hf-compress distill --teacher ./my-classifier --student mobilenet_v2 --loss mse --dataset ./photos runs/student",
    "hf-compress distill --teacher google/vit-base-patch16-224 --finetune-epochs 3 --student microsoft/resnet-18 "
    "--dataset ./photos runs/student",
)
@options_from(
    Group("Distillation", "steps.distill", DistillSection),
    Group("Student", "student", StudentSection, only=("width", "image_size", "pretrained")),
    DATA,
)
def distill(
    output: Output,
    teacher: Teacher,
    student: Annotated[
        str,
        typer.Option(help="Like --teacher, a name of `hf-compress students`, or auto.", show_default=False),
    ],
    dataset: Dataset,
    values: dict[str, Any],
    finetune_epochs: FinetuneEpochs = None,
    seed: Seed = 0,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    publish: Publish = False,
) -> None:
    """Distil a teacher into a student; the same as a recipe with one step `distill`."""
    models = _teacher(teacher, finetune_epochs) | model_overrides("student", student)
    sections = {"data": dataset, "steps": ["distill"], "seed": seed}
    recipe = Recipe.from_dict(sections, models | values | assignments(set_))
    options = {"trust_remote_code": trust_remote_code, "publish": publish}
    run_recipe(recipe, output, overwrite=overwrite, resume=resume, **options)


def _teacher(model: str, finetune_epochs: int | None) -> dict[str, Any]:
    overrides = model_overrides("teacher", model)
    return overrides if finetune_epochs is None else overrides | {"teacher.finetune.epochs": finetune_epochs}
