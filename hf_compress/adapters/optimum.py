"""Optimum's vocabulary: a configuration that lies on the Hub, a compressor, and a Trainer (`pip install optimum`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_compress.adapters.trainer_card import training_report
from hf_compress.auto.request import Request
from hf_compress.auto.running import find_best
from hf_compress.ground import processes
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import write_text
from hf_compress.ground.manifest import adding
from hf_compress.ground.registry import require_known, suggesting
from hf_compress.measure.cost import count_nonzero
from hf_compress.models.load import load
from hf_compress.models.origin import sources_with_roles
from hf_compress.report.card import CARD, HUB_TAG, TAGS, card_of
from hf_compress.report.run import Run
from hf_compress.run.permissions import permitted
from hf_compress.run.pipeline import make, send
from hf_compress.run.recipe import Recipe, model_overrides, with_declared_task
from hf_compress.sections.base import Section, TrainingConfig
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.values import read_single, with_data
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.gradual import GradualPruning
from hf_compress.tasks.declared import refuse_other_tasks
from hf_compress.training.trainer import DistillationTrainer

try:
    from optimum.quantization_base import OptimumQuantizer

    from hf_compress.adapters.optimum_configs import (
        CompressionConfig,
        DistillationConfig,
        OptimumStep,
        PruningConfig,
        QuantizationConfig,
    )
except ModuleNotFoundError as error:
    raise ImportError("hf_compress.adapters.optimum needs Optimum: pip install 'hf-compress[optimum]'") from error

__all__ = [
    "CompressionConfig",
    "CompressionTrainer",
    "Compressor",
    "DistillationConfig",
    "PruningConfig",
    "QuantizationConfig",
]

logger = logging.getLogger(__name__)
BESIDE_TRAINING = {"budget", "calibration", "layout", "max_drop", "pattern", "recovery", "repair", "round_to"}
"""Options of pruning that belong to the step `prune`, or to another granularity than a training can have."""


class Compressor(OptimumQuantizer):
    """Takes a model, writes a run folder: the recipe way in the form of Optimum's quantizers.

    Args:
        model: Hub id (`ID@REVISION`), timm checkpoint or folder: the teacher of the recipe.
        trust_remote_code: run Python code of the repositories that models come from.
    """

    def __init__(self, model: str | Path, trust_remote_code: bool = False):
        self.model = str(model)
        self.overrides = model_overrides("teacher", self.model)
        self.trust_remote_code = trust_remote_code

    @classmethod
    @suggesting
    def from_pretrained(
        cls, model_or_path: str | Path, file_name: str | None = None, trust_remote_code: bool = False
    ) -> Compressor:
        """Return a compressor of the model; it is loaded when `compress` is called.

        Raises:
            UsageError: a file is named.
        """
        if file_name is not None:
            raise UsageError(f"'file_name' cannot be '{file_name}': give the folder or Hub id that holds the model")
        return cls(model_or_path, trust_remote_code)

    @suggesting
    def compress(
        self,
        config: CompressionConfig | OptimumStep | dict[str, Any] | str | Path,
        dataset: str | Path | dict[str, Any] | None = None,
        save_dir: str | Path = "runs/latest",
        overwrite: bool = False,
        resume: bool = False,
        publish: bool = False,
    ) -> Run:
        """Run the recipe, and keep the configuration beside the model.

        Args:
            config: what to do; a single step stands for a configuration with that step, a dict for the options of a
                configuration, and a string for the recipe of that name or file.
            dataset: Hub id, folder, `digits`, or a recipe's whole section `data`; that of `config` when not given.
            save_dir: the run folder to make.
            overwrite, resume, publish: as for `hf_compress.compress`.

        Returns:
            The finished run.

        Raises:
            UsageError: the configuration or the folder is wrong.
            RunError: the run cannot go on.
        """
        recipe = permitted(_recipe(config, self.overrides, dataset), self.trust_remote_code, publish)
        run = make(recipe, save_dir, overwrite, resume, print)
        if processes.is_main():
            repeatable = recipe.model_copy(update={"publish": None, "track": None})
            with adding(run.folder) as new:
                CompressionConfig.from_recipe(repeatable).save_pretrained(new)
        send(run, recipe, self.trust_remote_code, print)
        return run

    def auto(
        self,
        wish: dict[str, Any],
        dataset: str | Path,
        save_dir: str | Path = "runs/auto",
        overwrite: bool = False,
        resume: bool = False,
        **options: Any,
    ) -> Run:
        """Search for the best model within a wish; see `hf_compress.find_best`.

        Args:
            wish: what it may cost and lose: `{"faster": 3, "max_drop": 0.01}`, see `hf_compress.auto.wish.Wish`.
            dataset: Hub id, folder, or `digits`.
            save_dir: the run folder to make.
            **options: `runtime`, `minutes`, `candidates`, `space`, `seed` and `overrides` of a `Request`.

        Raises:
            UsageError: a value or the folder is wrong.
            RunError: nothing is within the wish.
        """
        require_known(options, Request.of)
        request = Request.of(self.model, str(dataset), wish, **options)
        return find_best(request, save_dir, overwrite, resume, trust_remote_code=self.trust_remote_code)

    def quantize(self, save_dir: str | Path, file_prefix: str | None = None, **kwargs: Any) -> Run:
        """Do the same as `compress(save_dir=save_dir, **kwargs)`: the name that every Optimum quantizer has.

        Raises:
            UsageError: a file prefix is given; see `compress`, too.
        """
        if file_prefix is not None:
            raise UsageError(f"'file_prefix' cannot be '{file_prefix}': the files of a run folder have fixed names")
        return self.compress(save_dir=save_dir, **kwargs)


class CompressionTrainer(DistillationTrainer):
    """transformers' Trainer that distils and prunes while it trains, as INCTrainer did.

    Batches are those of an ordinary script: `pixel_values` and `labels`. The teacher sees `teacher_pixel_values` where
    the batch has them, otherwise the same `pixel_values`. Without a teacher the loss is the Trainer's own. Epochs,
    learning rate and the like are those of `args`. The classes of teacher and model match by the names in their
    configs, whatever the order, and the teacher may have more; where one side has mere numbers (`LABEL_0`), by number.

    Args:
        args, kwargs: those of `transformers.Trainer`.
        pruning_config: zero weights while training (granularity `weight`).
        distillation_config: loss against the teacher; the defaults when only a teacher is given. Either may be a dict
            of its options.
        teacher_model: model to learn from, or its Hub id or folder.
        pruning_start, pruning_end: fractions of the training between which is pruned.

    Attributes:
        pruning: the callback that prunes, or None; `pruning.sparsity` tells how far it has come.

    Raises:
        UsageError: the configurations do not fit each other or a training, the teacher's classes are not the model's,
            a loss is asked for beside the teacher's, or there is no such argument.
        RunError: the teacher is out of reach.
    """

    def __init__(
        self,
        *args: Any,
        pruning_config: PruneSection | dict[str, Any] | None = None,
        distillation_config: DistillSection | dict[str, Any] | None = None,
        teacher_model: PreTrainedModel | str | Path | None = None,
        pruning_start: float = 0.0,
        pruning_end: float = 0.5,
        **kwargs: Any,
    ):
        require_known(kwargs, Trainer, CompressionTrainer)
        if distillation_config is not None and teacher_model is None:
            raise UsageError("'distillation_config' needs a teacher: pass 'teacher_model'")
        if isinstance(pruning_config, dict):
            pruning_config = PruningConfig(**pruning_config)
        if isinstance(distillation_config, dict):
            distillation_config = DistillationConfig(**distillation_config)
        if isinstance(teacher_model, str | Path):
            teacher_model = load(str(teacher_model)).model
        self.pruning = None if pruning_config is None else GradualPruning(pruning_config, pruning_start, pruning_end)
        if teacher_model is not None and distillation_config is None:
            distillation_config = DistillationConfig()
        super().__init__(*args, teacher=teacher_model, loss_config=distillation_config, **kwargs)
        self.distillation = distillation_config
        self.nonzero_before = count_nonzero(self.model)
        if teacher_model is not None:
            self._refuse_other_losses()
            refuse_other_tasks(self.model, type(self).__name__)
        if pruning_config is not None:
            self.add_callback(self.pruning)
            _warn_of_ignored(pruning_config, BESIDE_TRAINING)
        if distillation_config is not None:
            _warn_of_ignored(distillation_config, TrainingConfig.model_fields)

    def _refuse_other_losses(self) -> None:
        given = {
            "compute_loss_func": self.compute_loss_func,
            "label_smoothing_factor": self.args.label_smoothing_factor,
        }
        for name in filter(given.get, given):
            raise UsageError(f"the loss with a teacher is that of 'distillation_config': leave out '{name}'")

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Return the distillation loss while training with a teacher, otherwise the loss of an ordinary Trainer."""
        if model.training and self.teacher is not None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        """Evaluate as an ordinary Trainer does; what is there for or from the teacher is not for the model."""
        for name in ("teacher_pixel_values", "teacher_outputs"):
            inputs.pop(name, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write README.md: the card of a run, with what a Trainer knows; see `Trainer.create_model_card`.

        `dataset` is what the images are called, and `model_name` what the results on them are of. `license` is that of
        model and teacher when not given, where both say one and the same. `dataset_args` is not needed.
        """
        if not self.is_world_process_zero():
            return
        steps = self._steps()
        named = dataset if dataset is not None else dataset_tags
        report = training_report(self, self.teacher, steps, self.nonzero_before, ", ".join(_listed(named)) or None)
        licenses = {source["license"] for _, source in sources_with_roles(report)}
        given = {
            "language": language,
            "license": license or (licenses.pop() if len(licenses) == 1 else None),
            "base_model": finetuned_from,
            "pipeline_tag": next(iter(_listed(tasks)), None),
            "datasets": dataset_tags,
            "model_name": model_name,
        }
        own = [HUB_TAG, *(TAGS[name] for name in steps)]
        overrides: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if not named:
            overrides |= {"eval_results": None, "metrics": None, "model_name": None}
        overrides["tags"] = list(dict.fromkeys(own + _listed(tags)))
        folder = Path(self.args.output_dir)
        write_text(folder / CARD, str(card_of(report, folder, repo_id=self.hub_model_id, **overrides)))

    def _steps(self) -> dict[str, Any]:
        """Return what was done as the steps of a recipe, with the options that were given and have an effect."""
        steps = {}
        if self.distillation is not None:
            without = set(TrainingConfig.model_fields)
            given = self.distillation.model_dump(mode="json", exclude_unset=True, exclude=without)
            steps["distill"] = given or {"loss": self.distillation.loss}
        if self.pruning is not None:
            given = self.pruning.config.model_dump(mode="json", exclude_unset=True, exclude=BESIDE_TRAINING)
            steps["prune"] = {**given, "start": self.pruning.start, "end": self.pruning.end}
        return steps

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write what an ordinary Trainer writes, but checkpoints of the training under the names in memory.

        The Trainer writes ViT, Swin and others under their Hub names, yet looks for the names in memory when it
        resumes or takes the best checkpoint, and skips what it does not find (transformers issue 48805).
        """
        Trainer._save(self, output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if not folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            return
        self._save_beside(folder)
        if state_dict is None:
            save_model(self.model, str(folder / SAFE_WEIGHTS_NAME), metadata={"format": "pt"})


def _recipe(
    config: CompressionConfig | OptimumStep | dict[str, Any] | str | Path,
    overrides: dict[str, Any],
    dataset: str | Path | dict[str, Any] | None,
) -> Recipe:
    if isinstance(config, OptimumStep):
        config = CompressionConfig([config])
    config = CompressionConfig(**config) if isinstance(config, dict) else config
    values = config.sections if isinstance(config, CompressionConfig) else read_single(config)
    if isinstance(config, CompressionConfig) and "task" not in values:
        overrides = with_declared_task(overrides)
    if isinstance(dataset, dict):
        values = values | {"data": dataset}
    elif dataset is not None:
        values, _ = with_data(values, str(dataset))
    return Recipe.from_dict(values, overrides)


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])


def _warn_of_ignored(config: Section, names: Iterable[str]) -> None:
    ignored = sorted(config.model_fields_set & set(names))
    if ignored:
        logger.warning(
            "CompressionTrainer trains as its TrainingArguments say: %s of %s has no effect",
            ", ".join(ignored),
            type(config).__name__,
        )
