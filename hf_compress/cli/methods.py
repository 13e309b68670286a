"""`hf-compress prune`, `distill` and `quantize`: recipes of one step, written as options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_compress.cli.options import (
    DATA_HELP,
    Json,
    Publish,
    Resume,
    Set,
    Track,
    TrustRemoteCode,
    assignments,
    examples,
)
from hf_compress.cli.run import run_recipe
from hf_compress.cli.sections import Group, options_from
from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe, model_overrides, with_declared_task
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.models import StudentSection
from hf_compress.steps.pruning.config import PruneSection, PruningTarget, RecoveryConfig
from hf_compress.steps.quantization.config import QuantizeSection

Output = Annotated[Path, typer.Argument(help="Run folder to make: model, recipe and report.")]
Teacher = Annotated[
    str, typer.Option("--model", "--teacher", help="Hub id (ID@REVISION), timm/..., or folder.", show_default=False)
]
Student = Annotated[
    str, typer.Option(help="Like --teacher, a name of `hf-compress students`, or auto.", show_default=False)
]
Dataset = Annotated[str, typer.Option("--dataset", "--data", help=DATA_HELP, show_default=False)]
FinetuneEpochs = Annotated[
    int | None, typer.Option(help="Train the teacher on the data first; needed when its labels are not the data's.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Control = Annotated[
    bool, typer.Option("--control", help="Train the same student on the labels alone, too, and compare them.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUTPUT.")]
DATA = Group("Data", "data", DataSection, only=("augmentation", "mixup", "cutmix"))


def command(models: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Make a command of a function that is called like the recipe's one step and says which models it takes.

    The command has the function's options, those that all such commands share, and `values`: see `options_from`.
    """

    def run(
        output: Output,
        dataset: Dataset,
        values: dict[str, Any],
        finetune_epochs: FinetuneEpochs = None,
        control: Control = False,
        seed: Seed = 0,
        track: Track = None,
        set_: Set = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
        trust_remote_code: TrustRemoteCode = False,
        publish: Publish = False,
        json_: Json = False,
        **named: str,
    ) -> None:
        finetune = {} if finetune_epochs is None else {"teacher.finetune.epochs": finetune_epochs}
        sections = {"data": dataset, "steps": [models.__name__], "control": control, "track": track, "seed": seed}
        asked = with_declared_task(models(**named) | finetune | values | assignments(set_))
        recipe = Recipe.from_dict(sections, asked)
        _refuse_idle(recipe, values)
        options = {"trust_remote_code": trust_remote_code, "publish": publish}
        run_recipe(recipe, output, json_, overwrite=overwrite, resume=resume, **options)

    place, *shared, _ = inspect.signature(run, eval_str=True).parameters.values()
    own = inspect.signature(models, eval_str=True).parameters.values()
    run.__signature__ = inspect.Signature([place, *own, *shared])
    run.__name__, run.__doc__ = models.__name__, models.__doc__
    return run


def _refuse_idle(recipe: Recipe, given: dict[str, Any]) -> None:
    """Refuse options that were given and do nothing beside the others, even where they only repeat a default."""
    [(name, step)] = recipe.steps[0].items()
    sections = {f"steps.{name}": step, f"steps.{name}.recovery": getattr(step, "recovery", step)}
    idle = {f"{key}.{option}": reason for key, own in sections.items() for option, reason in own.idle().items()}
    for key in given.keys() & idle:
        raise UsageError(f"--{key.rpartition('.')[2].replace('_', '-')} does nothing here: {idle[key]}")


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
@command
def prune(model: Teacher) -> dict[str, Any]:
    """Prune a model; the same as a recipe with one step `prune`."""
    return model_overrides("teacher", model)


@examples(
    "hf-compress distill --teacher ./my-classifier --student mobilenet_v2 --loss mse --dataset ./photos runs/student",
    "hf-compress distill --teacher google/vit-base-patch16-224 --finetune-epochs 3 --student microsoft/resnet-18 "
    "--dataset ./photos runs/student",
)
@options_from(
    Group("Distillation", "steps.distill", DistillSection),
    Group("Student", "student", StudentSection, only=("width", "depth", "image_size", "pretrained")),
    DATA,
)
@command
def distill(teacher: Teacher, student: Student) -> dict[str, Any]:
    """Distil a teacher into a student; the same as a recipe with one step `distill`."""
    return model_overrides("teacher", teacher) | model_overrides("student", student)


@examples(
    "hf-compress quantize --model ./my-classifier --dataset ./photos runs/for-int8",
    "hf-compress quantize --model runs/small --dataset ./photos --epochs 5 --loss mse runs/small-int8",
)
@options_from(Group("Training for int8", "steps.quantize", QuantizeSection), DATA)
@command
def quantize(model: Teacher) -> dict[str, Any]:
    """Train a model for int8 and write its ONNX file; the same as a recipe with one step `quantize`."""
    return model_overrides("teacher", model) | {"deploy": [{"to": "onnx", "int8": True}]}
