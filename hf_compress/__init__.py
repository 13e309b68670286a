"""Prune and distil any vision model of the Hugging Face Hub into a really smaller checkpoint."""

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_PUBLIC = {
    "Recipe": "hf_compress.run.recipe",
    "compress": "hf_compress.run.pipeline",
    "Run": "hf_compress.report.run",
    "find_best": "hf_compress.auto.running",
    "Study": "hf_compress.study.config",
    "run_study": "hf_compress.study.running",
    "Step": "hf_compress.steps",
    "StepResult": "hf_compress.steps",
    "register_step": "hf_compress.steps",
    "register_loss": "hf_compress.steps.distillation",
    "register_importance": "hf_compress.steps.pruning",
    "register_rewrite": "hf_compress.steps.rewriting",
    "register_student": "hf_compress.models.students",
    "load": "hf_compress.models.load",
    "publish": "hf_compress.hub.publish",
    "save": "hf_compress.checkpoint",
    "to_semi_structured": "hf_compress.checkpoint.semi_structured",
    "export": "hf_compress.tools.export",
    "prune": "hf_compress.tools.plain",
    "restore": "hf_compress.tools.plain",
    "register_runtime": "hf_compress.runtimes",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from hf_compress.auto.running import find_best
    from hf_compress.checkpoint import save
    from hf_compress.checkpoint.semi_structured import to_semi_structured
    from hf_compress.hub.publish import publish
    from hf_compress.models.load import load
    from hf_compress.models.students import register_student
    from hf_compress.report.run import Run
    from hf_compress.run.pipeline import compress
    from hf_compress.run.recipe import Recipe
    from hf_compress.runtimes import register_runtime
    from hf_compress.steps import Step, StepResult, register_step
    from hf_compress.steps.distillation import register_loss
    from hf_compress.steps.pruning import register_importance
    from hf_compress.steps.rewriting import register_rewrite
    from hf_compress.study.config import Study
    from hf_compress.study.running import run_study
    from hf_compress.tools.export import export
    from hf_compress.tools.plain import prune, restore


# The registration needs transformers' torch half; this package must import without torch, so it waits for it.
with suppress(ImportError):  # `hf_compress.device` works where NumPy, Pillow and a runtime alone are installed
    import wrapt

    wrapt.register_post_import_hook(
        lambda module: import_module("hf_compress.checkpoint.quantizer"), "transformers.quantizers"
    )


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hf_compress' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
