"""Loads backbones without a classifier: `AutoModel`, and the vision towers of CLIP and its kin."""

from __future__ import annotations

import torch
from huggingface_hub import resolve_revision
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)

from hf_compress.errors import CompressError, RunError
from hf_compress.hub.declared import refuse_huge, refuse_huge_pictures
from hf_compress.hub.load import LoadedModel, explained, local_folder, use_torch_momentum
from hf_compress.hub.shards import refuse_outside


def load_backbone(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, pretrained: bool = True
) -> LoadedModel:
    """Load a vision backbone in float32, in eval mode. The head of a classifier's checkpoint is left out.

    Args:
        name: Hub id (`facebook/dinov2-small`), timm checkpoint (`timm/...`) or folder in Hub form. Of a checkpoint for
            images and text (CLIP, SigLIP) the vision tower is taken.
        revision: branch, tag or commit.
        trust_remote_code: run Python code of the repository.
        pretrained: False gives the architecture with random weights.

    Returns:
        The model; `new_head` says that the layer behind its `pooler_output` is untrained.

    Raises:
        UsageError: the id or folder does not exist, or needs `trust_remote_code`.
        RunError: the repository is gated or out of reach, or holds no vision backbone.
    """
    folder = local_folder(name)
    source = folder or name
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if folder is None:
            options["revision"] = resolve_revision(name, revision=revision)
        refuse_huge(name, PretrainedConfig.get_config_dict(source, revision=options["revision"])[0])
        config = AutoConfig.from_pretrained(source, **options)
        tower = getattr(config, "vision_config", config)
        _refuse_classifiers_alone(name, tower)
        processor = AutoImageProcessor.from_pretrained(source, **options)
        refuse_huge_pictures(name, processor)
        if pretrained:
            refuse_outside(name, source, config, options["revision"])
            model, info = AutoModel.from_pretrained(
                source, config=tower, **options, dtype=torch.float32, output_loading_info=True
            )
            missing = info["missing_keys"]
        else:
            model = AutoModel.from_config(tower, trust_remote_code=trust_remote_code)
            missing = set()
    except CompressError:
        raise
    except Exception as error:
        raise explained(name, error) from error
    _refuse_other_inputs(name, config, model, processor)
    lacks = sorted(key for key in missing if not key.startswith("pooler."))
    if lacks:
        raise RunError(f"{name} is not a vision backbone: its checkpoint lacks the weights of '{lacks[0]}'")
    use_torch_momentum(model)
    new_pooler = bool(missing) or not pretrained
    return LoadedModel(model.eval(), processor, name, None if folder else options["revision"].resolved, new_pooler)


def _refuse_classifiers_alone(name: str, config: PretrainedConfig) -> None:
    custom = "AutoModel" in getattr(config, "auto_map", {})
    if not custom and type(config) not in AutoModel._model_mapping:
        raise RunError(f"{name} has no backbone of its own: there is no AutoModel of the type '{config.model_type}'")


def _refuse_other_inputs(
    name: str, config: PretrainedConfig, model: PreTrainedModel, processor: BaseImageProcessor
) -> None:
    from hf_compress.data.images import refuse_many_sizes

    if model.main_input_name != "pixel_values":
        raise RunError(f"{name} is not a vision backbone: '{config.model_type}' takes '{model.main_input_name}'")
    refuse_many_sizes(name, processor)
