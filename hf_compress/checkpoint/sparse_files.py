"""Sparse storage in safetensors files, and how transformers' loader reads it.

In a sparse checkpoint each tensor `name` has a companion `name.hf_compress`, its record (see `checkpoint.sparse`).
Under `name` lie the values: fewer than the model wants where storage is sparse, so that a program which does not know
this package refuses the file instead of loading something else.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    GLOBAL_WORKERS,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    apply_converters,
    apply_renamings,
)

from hf_compress.checkpoint.sparse import pack, unpack
from hf_compress.ground.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".hf_compress"
HEADER_BYTES = 110  # about what a record adds to a file's header
WORTHWHILE = 0.05
ADVICE = "the file is damaged or was changed: get it again, or save the model again"


def encode_state_dict(model: PreTrainedModel) -> tuple[dict[str, Tensor], int]:
    """Return the state dict as it is to be stored, and how many of its tensors have a record; 0 is the plain one.

    Storage is sparse when that makes the file smaller by 5 % at least: for the zeros of some biases alone, nobody
    should need this package. A model whose weights are not all here (offloaded, sharded over
    devices) is stored as it is, and so are weights that transformers merges or splits on saving.
    """
    from transformers.modeling_utils import remove_tied_weights_from_state_dict  # imports the quantizers, hence us

    state = without_sharing(model)
    if any(type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta for tensor in state.values()):
        return state, 0
    ignored = set(model._keys_to_ignore_on_save or ())
    state = {
        name: tensor
        for name, tensor in remove_tied_weights_from_state_dict(state, model).items()
        if name not in ignored
    }
    conversions = getattr(model, "_weight_conversions", None)
    if conversions is None:
        conversions = get_model_conversion_mapping(model, add_legacy=False)
    converters = [entry.reverse_transform() for entry in conversions if isinstance(entry, WeightConverter)]
    stored: dict[str, Tensor] = {}
    saved = records = 0
    for name, tensor in state.items():
        if apply_converters(name, converters)[1] is not None:
            stored[name] = tensor
            continue
        stored[name], stored[name + SUFFIX] = pack(tensor)
        records += 1
        saved += tensor.nbytes - stored[name].nbytes - stored[name + SUFFIX].nbytes - HEADER_BYTES - len(name)
    total = sum(tensor.nbytes for tensor in state.values())
    return (stored, records) if saved > WORTHWHILE * total else (state, 0)


def without_sharing(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state dict, with copies where a module stands in several places, as in timm's CoaT-Lite.

    transformers refuses to store one tensor under several names; what an architecture says it ties stays as it is.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    alone = {name for name, _ in (*model.named_parameters(), *model.named_buffers())} | {*tied, *tied.values()}
    return {name: tensor if name in alone else tensor.clone() for name, tensor in model.state_dict().items()}


def recorded_names(files: Iterable[str], expected: int) -> frozenset[str]:
    """Return the names of the tensors with a record, as the safetensors files of one checkpoint spell them.

    Raises:
        RunError: a file is no safetensors file, or not as many values and records as `expected` are there.
    """
    names: set[str] = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as content:
                names.update(content.keys())
        except (SafetensorError, OSError) as error:
            raise RunError(f"'{file}' is not a whole safetensors file ({error}): get it again") from error
    recorded = frozenset(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    alone = sorted(recorded - names)
    if alone:
        raise RunError(f"the checkpoint has the record of '{alone[0]}' but not its values: {ADVICE}")
    if len(recorded) != expected:
        raise RunError(
            f"config.json promises the records of {expected} tensors but the checkpoint has {len(recorded)}: {ADVICE}"
        )
    return recorded


def with_decoding(
    conversions: list[WeightTransform], model: PreTrainedModel, names: frozenset[str]
) -> list[WeightTransform]:
    """Return transformers' list of what happens to weights on loading, with the decoding of sparse storage in it.

    `names` are those of `recorded_names`; the converter meets them after the model's renamings.
    """
    renamings = copy.deepcopy([entry for entry in conversions if isinstance(entry, WeightRenaming)])
    renamed = frozenset(apply_renamings(name, renamings) for name in sorted(names))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    pool = ThreadPoolExecutor(GLOBAL_WORKERS)
    return [Decoder(renamed, shapes, pool), *conversions]


class _Decode(ConversionOps):
    """Stands for the decoding in transformers' list of operations; `Decoder.convert` does it."""

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return input_dict


class Decoder(WeightConverter):
    """Collects values and record of one tensor and makes the dense tensor of them, on the CPU, beside others.

    transformers copies it for every tensor, and sets the `dtype` to cast to. The arguments are the tensors that have a
    record, the shapes of the model's, and where tensors are decoded.
    """

    def __init__(self, names: frozenset[str], shapes: dict[str, torch.Size], pool: ThreadPoolExecutor):
        super().__init__(["values", "record"], [""], [_Decode()], force_cpu=True)
        self.names = names
        self.shapes = shapes
        self.pool = pool
        self.dtype: torch.dtype | None = None
        self.decoding: Future | None = None

    def __deepcopy__(self, memo: dict) -> Decoder:
        twin = copy.copy(self)
        twin.collected_tensors, twin.layer_targets = defaultdict(list), defaultdict(set)
        return twin

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        if source_key in self.names:
            return source_key, "values"
        name = source_key.removesuffix(SUFFIX)
        return (name, "record") if name != source_key and name in self.names else (source_key, None)

    def add_tensor(self, target_key: str, source_key: str, source_pattern: str, future: Future) -> None:
        super().add_tensor(target_key, source_key, source_pattern, future)
        if isinstance(future, Future) and len(self.collected_tensors) == 2:
            self.decoding = self.pool.submit(self._decode, target_key)

    def convert(self, layer_name: str, **kwargs: Any) -> dict[str, Tensor]:
        """Return the dense tensor under its name; RunError names it where the checkpoint is damaged."""
        return {layer_name: self.decoding.result() if self.decoding else self._decode(layer_name)}

    def _decode(self, name: str) -> Tensor:
        parts = self.materialize_tensors()
        tensor = decode_named(name, parts["values"][0], parts["record"][0], self.shapes[name])
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def decode_named(name: str, values: Tensor, record: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Decode a tensor of a checkpoint; RunError names it where it is damaged."""
    try:
        return unpack(values, record, shape)
    except RunError as error:
        raise RunError(f"tensor '{name}' of the checkpoint cannot be loaded, {error}: {ADVICE}") from None


def decode_in_place(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Hook for `load_state_dict`, so that a checkpoint which a Trainer wrote goes back into the model."""
    keys = [key for key in state_dict if key.endswith(SUFFIX)]
    current = module.state_dict(prefix=prefix) if keys else {}
    for key in keys:
        name, record = key.removesuffix(SUFFIX), state_dict.pop(key)
        if name in state_dict and name in current:
            state_dict[name] = decode_named(name, state_dict[name].cpu(), record.cpu(), current[name].shape)
