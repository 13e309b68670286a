"""Loads image classifiers and their image processors: Hub id, local folder, timm checkpoint, custom code."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from httpx2 import TransportError
from huggingface_hub import get_token, resolve_revision
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)

from hf_compress.errors import CompressError, RunError, UsageError
from hf_compress.files import user_path
from hf_compress.hub.declared import refuse_huge, refuse_huge_pictures
from hf_compress.hub.failures import limit_waits
from hf_compress.hub.head import permute_classes, renew_head
from hf_compress.hub.shards import refuse_outside
from hf_compress.labels import label_names, label_options, numbered, positions, set_labels


@dataclass
class LoadedModel:
    """A model with the image processor that belongs to it.

    Attributes:
        name: as the user gave it.
        label_names: class names in the order of the logits.
        commit: commit of the Hub repository, None for a folder.
        new_head: whether the classifier, or the pooling layer of a backbone, is untrained.
        projector: maps a backbone's embeddings to its teacher's where their widths differ.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    name: str
    commit: str | None = None
    new_head: bool = False
    projector: torch.nn.Linear | None = None

    @property
    def label_names(self) -> list[str]:
        return label_names(self.model.config)

    @property
    def members(self) -> list[LoadedModel]:
        """The models it is made of: more than itself for an ensemble alone."""
        return [self]


def load(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    labels: list[str] | None = None,
    pretrained: bool = True,
) -> LoadedModel:
    """Load an image classifier in float32, in eval mode.

    Args:
        name: Hub id (`microsoft/resnet-18`), timm checkpoint (`timm/resnet18.a1_in1k`) or folder in Hub form.
        revision: branch, tag or commit.
        trust_remote_code: run Python code of the repository.
        labels: wanted class names; where they are the checkpoint's in another order, its classifier is put into that
            order, and with other names it is new and untrained.
        pretrained: False gives the architecture with random weights.

    Raises:
        UsageError: the id or folder does not exist, or needs `trust_remote_code`.
        RunError: the repository is gated or out of reach, or holds no image classifier.
    """
    limit_waits()
    folder = local_folder(name)
    source = folder or name
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if folder is None:  # all files are those of one commit, from the cache where the Hub is out of reach
            options["revision"] = resolve_revision(name, revision=revision)
        refuse_huge(name, PretrainedConfig.get_config_dict(source, revision=options["revision"])[0])
        config = AutoConfig.from_pretrained(source, **options)
        _refuse_other_tasks(name, config)
        processor = AutoImageProcessor.from_pretrained(source, **options)
        refuse_huge_pictures(name, processor)
        known = label_names(config)
        wanted = {} if labels is None or len(labels) == len(known) else label_options(labels)
        if pretrained:
            refuse_outside(name, source, config, options["revision"])
            model, info = AutoModelForImageClassification.from_pretrained(
                source,
                **options,
                **wanted,
                dtype=torch.float32,
                ignore_mismatched_sizes=bool(wanted),
                output_loading_info=True,
            )
            new_head = bool(wanted or info["missing_keys"] or info["mismatched_keys"])
        else:
            config.update(wanted)
            model = AutoModelForImageClassification.from_config(config, trust_remote_code=trust_remote_code)
            new_head = True
    except CompressError:
        raise
    except Exception as error:
        raise explained(name, error) from error
    if pretrained:
        _refuse_missing_body(name, model, info["missing_keys"])
    if new_head and labels is None and pretrained:
        raise RunError(
            f"{name} is not an image classifier: its checkpoint lacks the weights of the classification head; "
            "to learn from the embeddings of a backbone, set 'task: features' (recipe distill-features)"
        )
    use_torch_momentum(model)
    _refuse_other_inputs(name, model.eval(), processor)
    if labels is not None and not new_head:
        new_head = _relabel(model, processor, known, labels)
    set_labels(model.config, known if labels is None else labels)
    return LoadedModel(model, processor, name, None if folder else options["revision"].resolved, new_head)


def _relabel(model: PreTrainedModel, processor: BaseImageProcessor, known: list[str], labels: list[str]) -> bool:
    """Make the classifier's logits those of `labels`, and return whether it had to be a new one."""
    order = positions(labels, known)
    if order is None and not (numbered(labels) and numbered(known)):
        renew_head(model, processor)
        return True
    if order not in (None, list(range(len(labels)))):
        permute_classes(model, processor, order)
    return False


def use_torch_momentum(model: PreTrainedModel) -> None:
    """Undo a batch-norm momentum that was copied from TensorFlow, where it means 1 - momentum.

    With 0.997, as in transformers' MobileNetV2, the running statistics are those of the last batch alone, and a model
    that was trained further is evaluated with them.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (module.momentum or 0) > 0.5:
            module.momentum = 0.1


def local_folder(name: str) -> str | None:
    """Return the path of a folder in Hub form, None for what can only be a Hub id.

    Raises:
        UsageError: a path without a model.
    """
    path = user_path(name)
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise UsageError(f"folder '{name}' has no config.json: give a folder in Hub form")
        for place in sorted(path.iterdir()):
            if place.exists() and not (place.is_file() or place.is_dir()):
                raise UsageError(f"'{place.name}' in folder '{name}' is no regular file: remove the pipe or device")
        return str(path)
    if name.startswith(("/", ".", "~")):
        raise UsageError(f"there is no model folder '{name}'")
    return None


def _refuse_other_tasks(name: str, config: PretrainedConfig) -> None:
    custom = "AutoModelForImageClassification" in getattr(config, "auto_map", {})
    if not custom and type(config) not in AutoModelForImageClassification._model_mapping:
        raise RunError(f"{name} is not an image classifier: transformers has none of the type '{config.model_type}'")


def _refuse_other_inputs(name: str, model: PreTrainedModel, processor: BaseImageProcessor) -> None:
    """Let the model see a picture as its processor makes it, and require a logit a label."""
    from hf_compress.data.images import preprocess, refuse_many_sizes

    try:
        refuse_many_sizes(name, processor)
        with torch.no_grad():
            pixels = preprocess(processor, [torch.zeros(3, 64, 64, dtype=torch.uint8)])
            logits = model(pixel_values=pixels).logits
    except CompressError:
        raise
    except Exception as error:
        raise RunError(
            f"{name} cannot be used: {type(model).__name__} makes no logits of the pixel_values of its image "
            f"processor: {' '.join(str(error).split())}"
        ) from error
    shape = logits.shape
    if shape != (1, model.config.num_labels):
        raise RunError(
            f"{name} cannot be used: {type(model).__name__} gives logits of shape {tuple(shape)} for one picture, "
            f"but its config names {model.config.num_labels} labels"
        )
    if bad := [key for key, weights in model.named_parameters() if not weights.isfinite().all()]:
        raise RunError(f"{name} cannot be used: {len(bad)} of its weights hold nan or infinity, '{bad[0]}' first")
    if not logits.isfinite().all():
        raise RunError(f"{name} cannot be used: its logits of a black picture are not finite")


def _refuse_missing_body(name: str, model: PreTrainedModel, missing: set[str]) -> None:
    """Let only the head of a checkpoint be untrained, and the pooling layer, which belongs to it."""
    prefix = f"{model.base_model_prefix}."
    lacks = sorted(key for key in missing if key.startswith(prefix) and ".pooler." not in key)
    if lacks:
        raise RunError(
            f"{name} cannot be loaded: its checkpoint lacks {len(lacks)} weights of its config, the first is "
            f"'{lacks[0]}'"
        )


def explained(name: str, error: Exception) -> CompressError:
    """Return what transformers and huggingface_hub raise as one sentence."""
    chain = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if get_token() and any(isinstance(link, HfHubHTTPError) and link.response.status_code == 401 for link in chain):
        return RunError(f"{name}: the Hub does not accept the access token; renew it: `hf auth login` or HF_TOKEN")
    if caused_by(GatedRepoError):
        return RunError(f"{name} is gated: ask for access on its Hub page, then `hf auth login`")
    if caused_by(RevisionNotFoundError):
        return UsageError(f"{name} has no such revision: check 'revision'")
    if caused_by(RepositoryNotFoundError, HFValidationError):
        return UsageError(f"there is no model '{name}' on the Hub or as a folder: check the id, or log in if private")
    if "weights_only" in text or "Unpickl" in text:
        return RunError(
            f"{name} cannot be loaded: its weights are a pickle that holds more than tensors, which could run code; "
            "have it saved as model.safetensors by someone you trust"
        )
    if "trust_remote_code" in text:
        return UsageError(f"{name} contains its own Python code: read it, then pass --trust-remote-code")
    unreachable = (OfflineModeIsEnabled, LocalEntryNotFoundError, RevisionResolutionError, ConnectionError)
    if caused_by(*unreachable, TransportError) or "couldn't connect" in text.lower():
        return RunError(f"{name} is not cached and the Hub is out of reach: check the network, or give a local folder")
    if "preprocessor_config.json" in text or "image processor" in text.lower():
        return RunError(f"{name} has no usable preprocessor_config.json: add one to the repository or copy it local")
    return RunError(f"{name} cannot be loaded: {text}")
