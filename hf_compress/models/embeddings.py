"""Backbones without a classifier: `AutoModel`, the vision towers of CLIP and its kin; and the one vector they give."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModel, PreTrainedModel

from hf_compress.data import Collator, ImageSplit
from hf_compress.data.images import input_size, no_targets, refuse_many_sizes
from hf_compress.ground.errors import RunError
from hf_compress.ground.looking import twin
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.ground.processor import fastest_device
from hf_compress.ground.progress import track
from hf_compress.models.load import LoadedModel, open_model

PROJECTOR = "projector.safetensors"
CLASS_TOKENS = {"cls_token", "class_token", "class_embedding"}
EMBEDDING_BATCH = 128


def load_backbone(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, pretrained: bool = True
) -> LoadedModel:
    """Load a vision backbone in float32, in eval mode; see `load.load` for the arguments and errors.

    The head of a classifier's checkpoint is left out; of a checkpoint for images and text (CLIP, SigLIP) the vision
    tower is taken.

    Returns:
        The model; `new_head` says that the layer behind its `pooler_output` is untrained.

    Raises:
        RunError: the repository holds no vision backbone.
    """
    opened = open_model(
        name,
        AutoModel,
        "has no backbone of its own: there is no AutoModel of the type",
        revision=revision,
        trust_remote_code=trust_remote_code,
        pretrained=pretrained,
        part=lambda config: getattr(config, "vision_config", config),
    )
    if opened.model.main_input_name != "pixel_values":
        raise RunError(
            f"{name} is not a vision backbone: '{opened.config.model_type}' takes '{opened.model.main_input_name}'"
        )
    refuse_many_sizes(name, opened.processor)
    lacks = sorted(key for key in opened.missing if not key.startswith("pooler."))
    if lacks:
        raise RunError(f"{name} is not a vision backbone: its checkpoint lacks the weights of '{lacks[0]}'")
    new_pooler = bool(opened.missing) or not pretrained
    return LoadedModel(opened.model, opened.processor, name, opened.commit, new_pooler)


def pooled_embedding(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Return one vector an image, shape (batch, width).

    The first of these that the model gives: `image_embeds` (CLIP with its projection), `pooler_output` (DINOv2, the
    vision towers of CLIP and SigLIP, ConvNeXt, ResNet, timm, ...), the class token of `last_hidden_state` where the
    model has one, and otherwise the mean over its tokens. Feature maps, as in ResNet and PoolFormer, are averaged over
    their positions.

    Raises:
        RunError: the model gives none of them.
    """
    output = model(pixel_values=pixel_values)
    for name in ("image_embeds", "pooler_output", "last_hidden_state"):
        values = getattr(output, name, None)
        if isinstance(values, Tensor):
            break
    else:
        raise RunError(
            f"{type(model).__name__} gives no image_embeds, pooler_output or last_hidden_state to learn from"
        )
    if values.dim() == 4:
        return values.mean(dim=(2, 3))
    if values.dim() == 3:
        return values[:, 0] if _has_class_token(model) else values.mean(dim=1)
    return values


class Embedder(nn.Module):
    """A backbone (see `pooled_embedding`), and where there is one the projector of its embeddings, as one module."""

    def __init__(self, backbone: PreTrainedModel, projector: nn.Linear | None = None):
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        embedding = pooled_embedding(self.backbone, pixel_values)
        return embedding if self.projector is None else self.projector(embedding)


def embed(loaded: LoadedModel, images: ImageSplit, workers: int = 0) -> Tensor:
    """Return the pooled embeddings of a split without augmentation, shape (images, width), float32 on the CPU."""
    device = fastest_device()
    images, collate = images.without_augmentation(), Collator(loaded.processor, targets=no_targets)
    model = twin(loaded.model).to(device)

    def run(batch_size: int) -> Tensor:
        loader = DataLoader(images, batch_size, collate_fn=collate, num_workers=workers)
        with torch.inference_mode():
            parts = [
                pooled_embedding(model, batch["pixel_values"].to(device)).float().cpu()
                for batch in track(loader, "Embedding images")
            ]
        return torch.cat(parts)

    return in_fitting_batches(run, EMBEDDING_BATCH)


def embedding_width(loaded: LoadedModel) -> int:
    """Return the length of a model's embeddings."""
    image = torch.zeros(1, 3, *input_size(loaded.processor), device=loaded.model.device)
    with torch.inference_mode():
        return pooled_embedding(twin(loaded.model), image).shape[1]


def load_projector(folder: str | Path) -> nn.Linear | None:
    """Return the projector that `save_projector` wrote; None where there is none."""
    file = Path(folder) / PROJECTOR
    if not file.is_file():
        return None
    state = load_file(file)
    teacher_width, width = state["weight"].shape
    projector = nn.Linear(width, teacher_width)
    projector.load_state_dict(state)
    return projector


def save_projector(projector: nn.Linear, folder: str | Path) -> None:
    """Write the projector beside its backbone, as `projector.safetensors` with `weight` and `bias`.

    It is no part of the backbone, which reloads without it. To compare with the teacher's embeddings:
    `torch.nn.functional.linear(embedding, **safetensors.torch.load_file(path))`.
    """
    save_file({name: tensor.contiguous() for name, tensor in projector.state_dict().items()}, Path(folder) / PROJECTOR)


def _has_class_token(model: PreTrainedModel) -> bool:
    return any(name.rpartition(".")[2] in CLASS_TOKENS for name, _ in model.named_parameters())
