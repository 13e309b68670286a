"""What a teacher says to images whose views repeat: asked once, in large batches, and kept for other runs."""

import hashlib
import json
import math
from functools import partial

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_compress.data import Collator, ImageSplit
from hf_compress.data.images import example_input, fitting_batch, no_targets
from hf_compress.ground import processes
from hf_compress.ground.environment import environment
from hf_compress.ground.looking import twin
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.ground.processor import fastest_device
from hf_compress.ground.progress import track
from hf_compress.ground.tensor_cache import TensorCache
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.load import LoadedModel
from hf_compress.tasks.base import Task
from hf_compress.training.context import Context

TEACHER_BATCH = 128
PLACES = {"_name_or_path"}  # in a config: where the model was loaded from


def answered(images: ImageSplit, teacher: LoadedModel, context: Context, epochs: int) -> ImageSplit:
    """Return images with what the teacher says to each, where their views repeat; otherwise the images as they are.

    The teacher is asked in float32, in the order of the images, in batches of one size, whatever learns from it; what
    follows reads the answers from a file, whoever wrote it. So a run gives the same result whether they were there.

    Args:
        context: gives the task, which reads the answers, and the folder for those that are not shared.
        epochs: views that only later epochs would show are left out.
    """
    if images.repeats_after is None:
        return images
    views = range(min(images.repeats_after, epochs))
    task = context.task
    shapes = _shapes(teacher, task)
    size = 4 * len(views) * len(images) * sum(map(math.prod, shapes.values()))
    cache = TensorCache.for_bytes(size, context.work_folder / "teacher-outputs")
    model = fingerprint(teacher, task)
    shown = [images.in_epoch(view) for view in views]
    with processes.main_first():
        outputs = [
            cache.get(
                hashlib.sha256(f"{model}\n{view.fingerprint}".encode()).hexdigest(),
                partial(_ask_all, view, teacher, context),
            )
            for view in shown
        ]
    return images.answered([_by_name(packed, shapes) for packed in outputs])


def fingerprint(teacher: LoadedModel, task: Task) -> str:
    """Return what identifies a teacher's answers to given views: model, processor, versions and hardware."""
    configs = [
        {key: value for key, value in module.config.to_dict().items() if key not in PLACES}
        for module in teacher.model.modules()
        if isinstance(module, PreTrainedModel)
    ]
    facts = {
        "task": task.name,
        "structure": repr(teacher.model),
        "configs": configs,
        "processor": teacher.processor.to_dict(),
        "environment": environment(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in (*teacher.model.named_parameters(), *teacher.model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _ask_all(images: ImageSplit, teacher: LoadedModel, context: Context) -> Tensor:
    """Return the answers to all images, a row an image, float32 on the CPU, without drawing a random number."""
    context.log(f"asking the teacher about {len(images):,} images")
    device = fastest_device()
    model = twin(teacher.model).to(device)
    use_channels_last(model)
    collate = Collator(teacher.processor, targets=no_targets)

    def run(batch_size: int) -> Tensor:
        loader = DataLoader(
            images,
            batch_size,
            collate_fn=collate,
            num_workers=context.data.workers,
            generator=torch.Generator().manual_seed(0),
        )
        with torch.no_grad():
            parts = [
                _packed(context.task.answer(model, send_to_device(batch["pixel_values"], device)))
                for batch in track(loader, "Asking the teacher")
            ]
        return torch.cat(parts)

    return in_fitting_batches(run, fitting_batch(teacher.processor, TEACHER_BATCH))


def _shapes(teacher: LoadedModel, task: Task) -> dict[str, torch.Size]:
    """Return the shape of each output for one image."""
    device = next(teacher.model.parameters()).device
    with torch.no_grad():
        said = task.answer(twin(teacher.model), send_to_device(example_input(teacher.processor), device))
    return {name: tensor.shape[1:] for name, tensor in said.items()}


def _packed(outputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.float().cpu().flatten(1) for tensor in outputs.values()], dim=1)


def _by_name(packed: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    parts = packed.split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.view(len(part), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
