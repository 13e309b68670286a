"""Loads backbones without a classifier: `AutoModel`, and the vision towers of CLIP and its kin."""

from __future__ import annotations

from transformers import AutoModel

from hf_compress.data.images import refuse_many_sizes
from hf_compress.ground.errors import RunError
from hf_compress.models.load import LoadedModel, open_model


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
