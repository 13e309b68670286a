"""The built-in kinds of rewrite. Importing this module does not import torch."""

from __future__ import annotations

from hf_compress.steps.rewriting.base import Layer, Rewriting, register_rewrite
from hf_compress.steps.rewriting.config import RewriteConfig


class _OfConvolutions(Rewriting):
    subject = "convolutions"

    def concerns(self, module):
        from torch import nn

        return isinstance(module, nn.Conv2d)


@register_rewrite("separable")
class Separable(_OfConvolutions):
    """A k x k convolution becomes a depthwise one and a pointwise one: see `separable`."""

    def replacement(self, layer: Layer, config: RewriteConfig):
        from hf_compress.steps.rewriting.convolutions import separable

        return separable(layer.module, config.rank)


@register_rewrite("factorize")
class Factorize(_OfConvolutions):
    """A k x k convolution becomes a k x 1 and a 1 x k one: see `factorized`."""

    def replacement(self, layer: Layer, config: RewriteConfig):
        from hf_compress.steps.rewriting.convolutions import factorized

        return factorized(layer.module, config.energy)


@register_rewrite("strided_pool")
class StridedPool(Rewriting):
    """Max or average pooling becomes a 3 x 3 convolution of stride 2: see `strided_pool`."""

    subject = "pooling modules"
    functions = ("max_pool2d", "avg_pool2d")
    saves_macs = False

    def concerns(self, module):
        from torch import nn

        return isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))

    def replacement(self, layer: Layer, config: RewriteConfig):
        from hf_compress.steps.rewriting.strided_pool import strided_pool

        return strided_pool(layer.module, layer.samples)


@register_rewrite("activations")
class Activations(Rewriting):
    """Activation functions become ReLU or ReLU6, sigmoids become hard sigmoids: see `activations`."""

    subject = "activation modules"
    functions = ("gelu", "silu", "sigmoid", "leaky_relu", "elu", "hardswish", "hardtanh", "mish")
    saves_macs = False

    def concerns(self, module):
        from hf_compress.steps.rewriting.activations import is_activation

        return is_activation(module)

    def replacement(self, layer: Layer, config: RewriteConfig):
        from hf_compress.steps.rewriting.activations import piecewise_linear

        return [piecewise_linear(layer.module, config.to)]
