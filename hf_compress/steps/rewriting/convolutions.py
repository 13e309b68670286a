"""What the rewrites of convolutions have in common."""

from __future__ import annotations

from torch import Tensor, nn

from hf_compress.steps.rewriting.base import Unsuitable


def require_plain(convolution: nn.Conv2d) -> None:
    """Raise `Unsuitable` for a convolution with groups, or one that is more than torch's own."""
    if type(convolution) is not nn.Conv2d:
        raise Unsuitable(f"is a {type(convolution).__name__}, which is more than a convolution")
    if convolution.groups > 1:
        depthwise = convolution.groups == convolution.in_channels
        raise Unsuitable("is depthwise already" if depthwise else f"has {convolution.groups} groups")


def convolution_of(weight: Tensor, bias: Tensor | None = None, **options) -> nn.Conv2d:
    """Return a convolution with the given weights, of shape (out, in / groups, height, width)."""
    out_channels, in_channels, *kernel = weight.shape
    groups = options.get("groups", 1)
    made = nn.Conv2d(
        in_channels * groups, out_channels, kernel, bias=bias is not None, device="meta", dtype=weight.dtype, **options
    )
    made.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made
