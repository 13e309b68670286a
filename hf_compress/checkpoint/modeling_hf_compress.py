"""Rebuilds a model that hf-compress made smaller, with torch and transformers alone.

`config.json` says under `quantization_config` what differs from the architecture: layers that were rewritten, tensors
and numbers that are smaller, and how many tensors are stored without their zeros. Nothing is quantized: the hooks of
transformers' quantizers are where a model can be changed before its weights are loaded. Where `hf_compress` was
imported, it does all of this, and nothing here is used. The form is described in docs/formats.md of hf-compress.
"""

import copy
import math
import struct
import zlib
from collections import defaultdict

import torch
from safetensors import safe_open
from torch import nn
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming, apply_renamings
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

_METHOD = "hf_compress: pip install hf-compress, then `import hf_compress` before from_pretrained"
_SUFFIX = ".hf_compress"
_DENSE, _BITMASK, _GAPS = range(3)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Rewritten(nn.Sequential):
    """The layers that stand in place of one layer of the architecture."""

    def __init__(self, layers: list[dict], placement: dict):
        super().__init__()
        for options in layers:
            kind = options["type"]
            options = {key: value for key, value in options.items() if key != "type"}
            if kind == "Conv2d":
                options |= placement
            self.append(getattr(nn, kind)(**options))
        convolutions = [layer for layer in self if isinstance(layer, nn.Conv2d)]
        for name, combine in (("kernel_size", max), ("stride", math.prod), ("dilation", max)):  # some code reads these
            if convolutions:
                sizes = zip(*(getattr(layer, name) for layer in convolutions), strict=True)
                setattr(self, name, tuple(map(combine, sizes)))


class _Dropped(nn.Module):
    """Stands in place of a block that was dropped: gives its first input back."""

    def __init__(self, length: int | None):
        super().__init__()
        self.length = length

    def forward(self, *args, **kwargs):
        first = next(iter((*args, *kwargs.values())))
        return first if self.length is None else (first, *[None] * (self.length - 1))


def _rewrite(model: nn.Module, rewrites: dict[str, dict]) -> None:
    for name, record in rewrites.items():
        tensor = next(model.get_submodule(name).parameters(), next(model.parameters()))
        if record["kind"] == "dropped":
            module = _Dropped(record["length"])
        else:
            module = _Rewritten(record["layers"], {"device": tensor.device, "dtype": tensor.dtype})
        model.set_submodule(name, module)


def _resize(model: nn.Module, shapes: dict[str, dict]) -> None:
    """Make tensors and numbers those that pruning left; None is a length that it did not change."""
    for name, change in shapes.items():
        module = model.get_submodule(name)
        for key, value in change["attributes"].items():
            setattr(module, key, value if isinstance(value, int) else type(getattr(module, key))(value))
        for key, lengths in change["tensors"].items():
            old = getattr(module, key)
            new = old.detach()[tuple(map(slice, lengths))].clone(memory_format=torch.contiguous_format)
            if isinstance(old, nn.Parameter):
                module.register_parameter(key, nn.Parameter(new, requires_grad=old.requires_grad))
            else:
                module.register_buffer(key, new, persistent=key not in module._non_persistent_buffers_set)


def _dense(name: str, values: torch.Tensor, record: torch.Tensor, expected: torch.Size) -> torch.Tensor:
    """Put the stored values of a tensor where its record says they belong."""
    raw = bytes(record.numpy())
    checksum, encoding, dimensions = struct.unpack_from("<IBB", raw)
    shape = struct.unpack_from(f"<{dimensions}Q", raw, 6)
    content = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    if checksum != zlib.crc32(content, zlib.crc32(raw[4:], zlib.crc32(str(values.dtype).encode()))):
        raise RuntimeError(f"tensor '{name}' of the checkpoint is damaged: get the file again")
    if shape != tuple(expected):  # which transformers refuses, or not, as it was told
        return torch.empty((), dtype=values.dtype).expand(shape)
    if encoding == _DENSE:
        return values
    positions = record[6 + 8 * dimensions :]
    if encoding == _BITMASK:
        bits = positions[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        where = bits.flatten().nonzero().squeeze(1)
    elif encoding == _GAPS:
        steps = positions.long()
        where = (torch.where(steps == 0, 255, steps).cumsum(0) - 1)[steps > 0]
    else:
        raise RuntimeError(f"tensor '{name}' of the checkpoint has the unknown encoding {encoding}")
    bits = values.view(_BITS[values.element_size()])
    dense = torch.zeros(math.prod(shape), dtype=bits.dtype).scatter_(0, where, bits)
    return dense.view(values.dtype).reshape(shape)


class _Nothing(ConversionOps):
    """Stands for the decoding in transformers' list of operations."""

    def convert(self, input_dict, **kwargs):
        return input_dict


class _Decoder(WeightConverter):
    """Makes one dense tensor of the two that are stored; transformers copies it for each."""

    def __init__(self, names: frozenset[str], shapes: dict[str, torch.Size]):
        super().__init__(["values", "record"], [""], [_Nothing()], force_cpu=True)
        self.names, self.shapes, self.dtype = names, shapes, None

    def __deepcopy__(self, memo):
        twin = copy.copy(self)
        twin.collected_tensors, twin.layer_targets = defaultdict(list), defaultdict(set)
        return twin

    def rename_source_key(self, source_key):
        name = source_key.removesuffix(_SUFFIX)
        if name not in self.names:
            return source_key, None
        return name, "values" if name == source_key else "record"

    def convert(self, layer_name, **kwargs):
        parts = self.materialize_tensors()
        dense = _dense(layer_name, parts["values"][0], parts["record"][0], self.shapes[layer_name])
        return {layer_name: dense.to(self.dtype) if dense.is_floating_point() else dense}


class _Config(QuantizationConfigMixin):
    """What stands in `config.json`."""

    def __init__(self, shapes=None, sparse_records=0, rewrites=None, **kwargs):
        self.quant_method = _METHOD
        self.shapes, self.sparse_records, self.rewrites = shapes or {}, sparse_records, rewrites or {}


class _Rebuilder(HfQuantizer):
    """Changes the model before its weights are loaded; afterwards it is a model like any other, and is saved dense."""

    def __init__(self, quantization_config, **kwargs):
        super().__init__(quantization_config, **kwargs)
        self.names = frozenset()

    def _process_model_before_weight_loading(self, model, checkpoint_files=None, **kwargs):
        _rewrite(model, self.quantization_config.rewrites)
        _resize(model, self.quantization_config.shapes)
        if self.quantization_config.sparse_records:
            names = set()
            for file in checkpoint_files or ():
                with safe_open(file, framework="pt") as content:
                    names.update(content.keys())
            self.names = frozenset(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return model

    def update_weight_conversions(self, weight_conversions, model):
        if not self.names:
            return weight_conversions
        renamings = copy.deepcopy([entry for entry in weight_conversions if isinstance(entry, WeightRenaming)])
        names = frozenset(apply_renamings(name, renamings) for name in sorted(self.names))
        return [_Decoder(names, {k: v.shape for k, v in model.state_dict().items()}), *weight_conversions]

    def get_new_dtype(self, converter, param, dtype):
        if isinstance(converter, _Decoder):
            converter.dtype = dtype  # it casts what it has decoded
            return None
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_after_weight_loading(self, model, **kwargs):
        conversions = getattr(model, "_weight_conversions", None)
        self.remove_quantization_config(model)
        if conversions is not None:
            model._weight_conversions = [entry for entry in conversions if not isinstance(entry, _Decoder)]
        self.quantization_config.sparse_records = 0
        model.hf_quantizer = self
        return model

    def get_state_dict_and_metadata(self, model):
        model.config.quantization_config = self.quantization_config
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        alone = {name for name, _ in (*model.named_parameters(), *model.named_buffers())} | {*tied, *tied.values()}
        state = model.state_dict()  # with copies where one module stands in several places
        return {name: tensor if name in alone else tensor.clone() for name, tensor in state.items()}, {}

    def is_serializable(self):
        return True

    @property
    def is_trainable(self):
        return True


for _registered, _own in ((AUTO_QUANTIZATION_CONFIG_MAPPING, _Config), (AUTO_QUANTIZER_MAPPING, _Rebuilder)):
    if not getattr(_registered.get(_METHOD), "__module__", "").startswith("hf_compress."):
        _registered[_METHOD] = _own
