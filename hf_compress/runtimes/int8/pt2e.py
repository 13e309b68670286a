"""int8 programs of torch.export (PT2E) as ExecuTorch's XNNPACK computes them, with corrected biases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from hf_compress.runtimes.base import Exportable

aten = torch.ops.aten
CHANNELS = {aten.conv2d.default: 1, aten.conv_transpose2d.input: 1, aten.linear.default: -1}
"""By what layers call with an input, weights and a bias: the dimension of what they give that has their channels."""

BOUNDED = {aten.hardtanh.default, aten.hardtanh_.default}


@torch.no_grad()
def quantized_program(model: Exportable) -> torch.export.ExportedProgram:
    """Quantise weights per channel, and activations with the ranges that the calibration images show."""
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = fused(prepare_pt2e(model.program(dynamic_batch=False).module(), quantizer))
    for image in model.calibration:
        observed(image)
    converted = convert_pt2e(copy.deepcopy(observed))
    _correct(converted, _shifts(observed, converted, model.calibration))
    return torch.export.export(converted, (model.image,))


def fused(observed: fx.GraphModule) -> fx.GraphModule:
    """Let bounded activations read what the layer before gives as it is: they are computed as one.

    The quantizer knows this of ReLU alone. Of ReLU6 it would round what is cut off, too, in wide steps.
    """
    for node in [node for node in observed.graph.nodes if node.target in BOUNDED]:
        between = node.args[0]
        if between.op == "call_module" and len(between.users) == 1:
            layer = between.args[0]
            if layer.target in CHANNELS and len(layer.users) == 1:
                node.replace_input_with(between, layer)
                observed.graph.erase_node(between)
    observed.recompile()
    return observed


def _shifts(floats: fx.GraphModule, int8: fx.GraphModule, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what each channel of the layers gives less, on average over the images, because of rounded weights.

    Args:
        floats: what was quantised; nodes have the same names in both.

    Returns:
        Tensors of shape (channels,) by the names of the layers that have a bias.
    """
    rounded: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    def keep(node: fx.Node, _: Tensor, weight: Tensor, *others: Any) -> None:
        rounded[node.name] = weight

    def add(node: fx.Node, read: Tensor, weight: Tensor, _: Tensor, *others: Any) -> None:
        if node.name in rounded:
            taken = node.target(read, weight - rounded[node.name], None, *others)
            mean = taken.movedim(CHANNELS[node.target], 0).flatten(1).mean(1)
            found[node.name] = found.get(node.name, 0) + mean / len(images)

    _Layers(int8, keep).run(images[0])
    for image in images:
        _Layers(floats, add).run(image)
    return found


def _correct(int8: fx.GraphModule, by: dict[str, Tensor]) -> None:
    """Add to the biases of a program what `_shifts` found (Nagel et al., 2019)."""
    for node in int8.graph.nodes:
        if node.name in by:
            name = f"{node.name}_corrected_bias"  # one of its own: layers may share theirs
            corrected = attrgetter(node.args[2].target)(int8) + by[node.name]
            int8.register_parameter(name, nn.Parameter(corrected, requires_grad=False))
            with int8.graph.inserting_before(node):
                node.update_arg(2, int8.graph.get_attr(name))
    int8.graph.eliminate_dead_code()
    int8.recompile()


class _Layers(fx.Interpreter):
    """Runs a graph, and shows what its layers with biases are called with; those that are computed count as none."""

    def __init__(self, graph: fx.GraphModule, see: Callable[..., None]):
        super().__init__(graph)
        self.see = see

    def run_node(self, n: fx.Node) -> Any:
        if n.target in CHANNELS and len(n.args) > 2 and getattr(n.args[2], "op", None) == "get_attr":
            self.see(n, *self.fetch_args_kwargs_from_env(n)[0])
        return super().run_node(n)
