"""Any `nn.Module` that takes images, torchvision's or one's own: smaller, repaired, stored for other programs."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_compress.checkpoint.shapes import Shapes, apply_shapes, changes_between, is_well_formed
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_json, user_path, whole_folder, write_json, write_text
from hf_compress.ground.looking import HALVES, in_float32, twin
from hf_compress.ground.outputs import output_tensors
from hf_compress.ground.processor import fastest_device
from hf_compress.measure.agreement import agreements
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.exporting import DeployedModel, exportable
from hf_compress.runtimes import runtime
from hf_compress.sections.base import validate
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.repair import halves, improve
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.tasks.base import TOLERANCE
from hf_compress.training.batch_norms import has_batch_norms

logger = logging.getLogger(__name__)

WEIGHTS, SHAPES = "model.safetensors", "shapes.json"
EXPORTS = ("pt2", "onnx")
BATCH, MOST_IMAGES = 16, 256
README = """This model was pruned by hf-compress. It is none of transformers: `from_pretrained` cannot load it.

- `model.pt2`: `torch.export.load("model.pt2").module()` takes images and needs no code of the model.
- `model.onnx`: for ONNX Runtime and others, with the input `pixel_values`.
- `model.safetensors`, `shapes.json`: weights, and what of the unpruned module has another size. With the code of the
  model, `hf_compress.restore(module, folder)` makes an unpruned module this one.
"""


class Plain(nn.Module):
    """A module that is called as models of transformers are, and gives its output tensors by name."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return output_tensors(self.module(pixel_values))


@dataclass
class PrunedModule:
    """A pruned module, and what came of it.

    Attributes:
        module: the smaller module; its `forward` takes what it took before.
        shapes: what of the unpruned module has another size now, see `hf_compress.restore`.
        protected: layers that keep their channels, with the reason.
        parameters, macs: before and after.
        repair: `repaired` (what stayed of `least_squares` and `batch_norm`), `output_error_before` and `..._after`
            (mean squared difference from the unpruned outputs by their variance); empty without calibration images.
        image: one input, by which it is exported.
    """

    module: nn.Module
    shapes: Shapes
    protected: dict[str, str]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    image: Tensor
    repair: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> dict[str, str]:
        """Write weights with the table of shapes, a `torch.export` archive and ONNX, each checked against PyTorch.

        Returns:
            The exports that could not be made, with the reason.

        Raises:
            UsageError: `folder` is there already.
        """
        if (place := user_path(folder)).exists():
            raise UsageError(f"'{folder}' is there already: name a new folder for the pruned module")
        model, missing = Plain(copy.deepcopy(self.module).cpu().eval()), {}
        with whole_folder(place) as new:
            save_model(model.module, str(new / WEIGHTS))
            write_json(new / SHAPES, self.shapes)
            write_text(new / "README.md", README)
            for name in EXPORTS:
                if problem := _export(model, name, self.image, new):
                    missing[name] = problem
                    logger.warning("the pruned module is not exported to %s: %s", name, problem)
        return missing


def prune(
    module: nn.Module,
    example_inputs: Tensor,
    *,
    amount: float = 0.3,
    importance: str = "l1",
    scope: str = "layer",
    floor: float = 0.1,
    round_to: int = 8,
    exclude: Sequence[str] = (),
    calibration: Tensor | Iterable[Tensor] | None = None,
) -> PrunedModule:
    """Remove channels and attention heads from a copy of any module that takes images, once and without training.

    Args:
        module: stays as it is.
        example_inputs: images of shape (batch, channels, height, width), the module's only input.
        amount: as in a recipe's step `prune`, and so are the following ones.
        importance: name of a criterion.
        scope: `layer`, `global` or `cost`.
        floor: share of its channels that every layer keeps.
        round_to: numbers of channels are multiples of it.
        exclude: names of layers, or of modules around them, that keep their channels.
        calibration: unlabelled images as the module takes them, a tensor or batches (of a tuple the first counts), of
            which 256 are used: layers are solved anew by them, and `importance: obs` asks them.

    Raises:
        UsageError: wrong values, or the module does not run on `example_inputs`.
        RunError: nothing can be pruned.
    """
    options = {"amount": amount, "importance": importance, "scope": scope, "floor": floor, "round_to": round_to}
    config = validate(PruneSection, options)
    if scope == "damage":
        raise UsageError(
            "scope 'damage' asks the loss of a task, which a plain module has not: take layer, global or cost"
        )
    if round_to == "auto":
        raise UsageError("round_to 'auto' is measured by the step 'prune' of a recipe: give a number, such as 8")
    given = _first(example_inputs)[:1].detach().cpu()
    unpruned, image = Plain(in_float32(twin(module).cpu())), _as_float(given)
    _require_runs(unpruned, image)
    pruned = Plain(in_float32(copy.deepcopy(module).cpu().eval()))
    images: Any = None if calibration is None else _Images.of(calibration)  # in the place of a `Calibration`
    pruner = ChannelPruner(pruned, image, config, _layers(pruned, exclude))
    kept = pruner.remove(pruned, pruner.scores(pruned, amount, images), amount)
    repair = _repaired(unpruned, pruned, kept, images) if images else {}
    parameters = count_parameters(unpruned), count_parameters(pruned)
    macs = count_macs(unpruned, image), count_macs(pruned, image)
    shapes = changes_between(unpruned.module, pruned.module)
    protected = {name.removeprefix("module."): reason for name, reason in pruner.protected.items()}
    device = next(module.parameters()).device
    smaller = pruned.module.to(device=device, memory_format=torch.contiguous_format)
    for whole, part in zip(module.modules(), smaller.modules(), strict=True):
        part.training = whole.training
    types = {name: tensor.dtype for name, tensor in _tensors(module)}
    for name, tensor in _tensors(smaller):
        tensor.data = tensor.data.to(types[name])
    return PrunedModule(smaller, shapes, protected, parameters, macs, given, repair)


def restore(module: nn.Module, folder: str | Path) -> nn.Module:
    """Make an unpruned module the pruned one that `PrunedModule.save` wrote, in place, and return it.

    Args:
        module: built as the one that was pruned; its weights do not matter.

    Raises:
        UsageError: no such folder.
        RunError: the module is another one, or the files were changed.
    """
    place = user_path(folder)
    if not (place / SHAPES).is_file():
        raise UsageError(f"'{folder}' holds no {SHAPES}: name a folder that `hf_compress.prune(...).save` wrote")
    shapes = read_json(place / SHAPES)
    if not is_well_formed(shapes):
        raise UsageError(f"'{place / SHAPES}' is damaged or was changed: get the file again")
    apply_shapes(module, shapes, SHAPES)
    load_model(module, str(place / WEIGHTS))
    return module


@dataclass(frozen=True)
class _Images:
    """Calibration images, of shape (channels, height, width) each."""

    images: Sequence[Tensor]

    @classmethod
    def of(cls, given: Tensor | Iterable[Tensor]) -> _Images:
        images: list[Tensor] = []
        for part in [given] if isinstance(given, Tensor) else given:
            images += _as_float(_first(part)[: MOST_IMAGES - len(images)].detach().cpu())
            if len(images) == MOST_IMAGES:
                break
        if len({image.shape for image in images}) != 1:
            raise UsageError(f"calibration holds {'images of several sizes' if images else 'no images'}")
        return cls(images)

    def pixel_values(self) -> Iterator[Tensor]:
        return (batch.to(fastest_device()) for batch in DataLoader(self.images, BATCH))

    def gradients(self, model: nn.Module) -> NoReturn:
        raise UsageError("this importance needs the loss of a task, which a plain module has not: use obs or l1")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(module.named_parameters(), module.named_buffers())


def _as_float(images: Tensor) -> Tensor:
    return images.float() if images.dtype in HALVES else images


def _first(given: Any) -> Tensor:
    """Return images of shape (batch, channels, height, width): a tensor, or the first thing of a tuple."""
    images = given[0] if isinstance(given, (tuple, list)) and given else given
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        raise UsageError("images must be a floating tensor of shape (batch, channels, height, width)")
    return images


def _require_runs(model: Plain, image: Tensor) -> None:
    try:
        with torch.no_grad():
            said = model(pixel_values=image)
    except Exception as error:  # whatever a stranger's code raises
        text = " ".join(str(error).split())
        raise UsageError(f"{type(model.module).__name__} does not run on example_inputs: {text}") from error
    if not said:
        raise UsageError(f"{type(model.module).__name__} gives no floating tensor for example_inputs")


def _layers(model: Plain, exclude: Sequence[str]) -> set[str]:
    """Return the names of the modules in `model` that are named, or lie in one that is."""
    names = [name for name, _ in model.module.named_modules()]
    for wanted in exclude:
        if wanted not in names:
            raise UsageError(f"exclude names '{wanted}', which the module lacks: its first layers are {names[1:4]}")
    return {
        f"module.{name}" for name in names for wanted in exclude if name == wanted or name.startswith(f"{wanted}.")
    }


def _repaired(unpruned: Plain, pruned: Plain, kept: Any, images: _Images) -> dict[str, Any]:
    fitted, judged = (_Images(part) for part in halves(images.images))

    def solve(whole: nn.Module, trial: nn.Module) -> None:
        least_squares(whole, trial, kept, fitted.pixel_values())

    def count_anew(whole: nn.Module, trial: nn.Module) -> None:
        torch.optim.swa_utils.update_bn((batch for batch in fitted.pixel_values() if len(batch) > 1), trial)
        trial.eval()

    changes: dict[str, Any] = {"least_squares": solve}
    if has_batch_norms(pruned):
        changes["batch_norm"] = count_anew
    return improve(unpruned, pruned, list(judged.pixel_values()), changes)


def _export(model: Plain, name: str, image: Tensor, folder: Path) -> str:
    """Write a file of a runtime, and return what is wrong with it; nothing where it says the same as PyTorch."""
    try:
        ready, chosen = exportable(model, image), runtime(name)
        file = folder / f"model{chosen.suffix}"
        chosen.write(ready, file)
        opened = DeployedModel(chosen.load(file, torch.get_num_threads()), ready.outputs, model, chosen.batches)
        (agreement,) = agreements(model, [opened], [image])
    except Exception as error:  # exporters raise whatever their compilers raise
        (folder / f"model{runtime(name).suffix}").unlink(missing_ok=True)
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    if agreement.within(TOLERANCE):
        return ""
    file.unlink()
    return f"it does not say the same as PyTorch: {agreement}"
