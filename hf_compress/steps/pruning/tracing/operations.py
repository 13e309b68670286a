"""How labels of channels pass through each of torch's operations: see `labels`.

An operation without a rule is elementwise when its result has the shape that its operands broadcast to; otherwise the
labels that enter it are fixed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_compress.steps.pruning.tracing.labels import FIXED, Follower, shrunk, varying

RESHAPING = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze"),
    *("select", "slice", "split", "split_with_sizes", "unbind", "chunk", "roll", "flip", "repeat", "im2col"),
    *("unfold", "pixel_unshuffle", "pixel_shuffle", "clone", "detach", "alias", "_to_copy", "expand", "lift_fresh"),
}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
SIZED = VIEWS | {"split", "split_with_sizes", "expand"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "var_mean", "linalg_vector_norm", "logsumexp", "max", "min"}
POOLING = ("pool", "upsample")


def follow(
    follower: Follower, func, args: tuple, kwargs: dict[str, Any], inputs: list[Tensor], outputs: list[Tensor]
) -> None:
    """Give the outputs of one operation their labels."""
    name = func.overloadpacket.__name__
    if not outputs:
        return
    if name in RULES:
        labels = [RULES[name](follower, args, kwargs, outputs[0])]
    elif name in RESHAPING:
        labels = _reshaped(follower, name, func, args, kwargs, outputs)
    elif name in REDUCTIONS:
        labels = [_reduced(follower, args, outputs[0])] * len(outputs)
    elif any(part in name for part in POOLING):
        labels = [_pooled(follower, name, args[0])]
    else:
        labels = [_elementwise(follower, name, inputs, outputs[0])] * len(outputs)
    for tensor, arrays in zip(outputs, labels, strict=False):
        follower.known[tensor] = arrays


def _padded(labels: Tensor, rank: int) -> Tensor:
    return labels.reshape((1,) * (rank - labels.dim()) + tuple(labels.shape))


def _aligned(follower: Follower, tensor: Tensor, rank: int) -> tuple[torch.Size, list[Tensor]]:
    """Return shape and labels with leading dimensions of size 1, as broadcasting adds them.

    What `expand` broadcast before (stride 0) has the size 1 too.
    """
    sizes = [1 if stride == 0 else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    shape = torch.Size((1,) * (rank - tensor.dim()) + tuple(sizes))
    return shape, [_padded(labels, rank) for labels in follower.labels_of(tensor)]


def _along(follower: Follower, tensor: Tensor | None, dim: int, rank: int) -> list[tuple[torch.Size, list[Tensor]]]:
    """Return a vector as an operand that lies along `dim`."""
    if tensor is None:
        return []
    shape = [-1 if d == dim else 1 for d in range(rank)]
    return [(tensor.view(shape).shape, [labels.reshape(shape) for labels in follower.labels_of(tensor)])]


def _elementwise(follower: Follower, name: str, inputs: list[Tensor], output: Tensor) -> list[Tensor]:
    try:
        same = torch.broadcast_shapes(*(tensor.shape for tensor in inputs)) == output.shape
    except RuntimeError:
        same = False
    if not same:
        for tensor in inputs:
            for labels in follower.labels_of(tensor):
                follower.fix(labels, f"enters the operation '{name}' in '{follower.module}', which is not followed")
        return []
    return follower.combine([_aligned(follower, tensor, output.dim()) for tensor in inputs], set(), name)


def _reshaped(follower: Follower, name: str, func, args, kwargs, outputs: list[Tensor]) -> list[list[Tensor]]:
    """Apply the operation to the labels themselves."""
    source = args[0]
    results: list[list[Tensor]] = [[] for _ in outputs]
    for labels in follower.labels_of(source):
        if name == "expand":
            moved = [_padded(labels, outputs[0].dim())]
        elif name in ("clone", "detach", "alias", "_to_copy", "lift_fresh"):
            moved = [labels]
        elif name in VIEWS:
            moved = [shrunk(labels.expand(source.shape).reshape(outputs[0].shape))]
        else:
            moved = func(labels.expand(source.shape), *args[1:], **kwargs)
            moved = [shrunk(part) for part in (moved if isinstance(moved, (list, tuple)) else [moved])]
        if name in SIZED:
            follower.links.reshapes.append((labels.flatten(), follower.module))
        for result, part in zip(results, moved, strict=True):
            if varying(part):
                result.append(part)
    return results


def _reduced(follower: Follower, args, output: Tensor) -> list[Tensor]:
    source = args[0]
    dims = args[1] if len(args) > 1 and isinstance(args[1], (int, list, tuple)) else None
    if len(args) > 2 and isinstance(args[2], (list, tuple)):  # linalg_vector_norm(x, order, dims)
        dims = args[2]
    dims = range(source.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    dims = {dim % source.dim() for dim in dims}
    arrays = follower.reduce(follower.labels_of(source), dims)
    if output.dim() < source.dim():
        shape = [dim for dim in range(source.dim()) if dim not in dims]
        arrays = [labels.reshape([labels.shape[dim] for dim in shape]) for labels in arrays]
    return arrays


def _pooled(follower: Follower, name: str, source: Tensor) -> list[Tensor]:
    kept = []
    for labels in follower.labels_of(source):
        if max(varying(labels)) < source.dim() - 2:
            kept.append(labels)
        else:
            follower.fix(labels, f"is resized by '{name}' in '{follower.module}'")
    return kept


def _contract(follower: Follower, terms: list[tuple[Tensor, str]], result: str, keep: bool = False) -> list[Tensor]:
    """Combine operands whose dimensions have the given one-letter names; names not in `result` are summed over."""
    names = sorted({letter for _, letters in terms for letter in letters} | set(result))
    operands = []
    for tensor, letters in terms:
        order = [letters.index(letter) for letter in sorted(letters)]
        sizes = dict(zip(letters, tensor.shape, strict=True))
        shape = torch.Size([sizes.get(letter, 1) for letter in names])
        arrays = []
        for labels in follower.labels_of(tensor):
            extents = dict(zip(letters, labels.shape, strict=True))
            arrays.append(labels.permute(order).reshape([extents.get(letter, 1) for letter in names]))
        operands.append((shape, arrays))
    summed = {position for position, letter in enumerate(names) if letter not in result}
    arrays = follower.combine(operands, summed, "matrix product", keep)
    kept = [letter for letter in names if letter in result]
    order = [kept.index(letter) for letter in result]
    return [labels.reshape([labels.shape[names.index(letter)] for letter in kept]).permute(order) for labels in arrays]


def _product(follower, args, kwargs, output):
    """Matrices, or batches of them, and what may be added to their product, which stands in front of them."""
    *added, left, right = args
    batch = "b" * (output.dim() - 2)
    terms = [(left, f"{batch}nk"), (right, f"{batch}km")]
    terms += [(bias, f"{batch}nm"[-bias.dim() :]) for bias in added]
    return _contract(follower, terms, f"{batch}nm", keep=batch != "")


def _attention(follower, args, kwargs, output):
    terms = [(args[0], "bhnd"), (args[1], "bhmd"), (args[2], "bhme")]
    mask = kwargs.get("attn_mask")
    if mask is not None:
        terms.append((mask, "bhnm"[-mask.dim() :]))
    return _contract(follower, terms, "bhne", keep=True)


def _convolution(follower, args, kwargs, output):
    source, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    read = [labels.flatten() for labels in follower.labels_of(source) if varying(labels) == {1}]
    made = [labels.flatten() for labels in follower.labels_of(weight) if varying(labels) == {0}]
    kernel = [labels.flatten() for labels in follower.labels_of(weight) if varying(labels) == {1}]
    batch = [labels for labels in follower.labels_of(source) if varying(labels) == {0}]
    where = f"in '{follower.module}'"
    for labels in follower.labels_of(source):
        if varying(labels) not in ({0}, {1}) or transposed:
            follower.fix(labels, f"is convolved along its channels {where}")
    for labels in follower.labels_of(weight):
        if varying(labels) not in ({0}, {1}) or transposed:
            follower.fix(labels, f"is the kernel of a convolution {where}")
    if transposed:
        return []
    if groups == 1:
        for labels, other in ((read, kernel), (kernel, read)):
            if labels and not other:
                follower.fix(labels[0], f"reads an input of fixed width {where}")
        if read and kernel:
            follower.link(read[0], kernel[0])
    else:
        made = _grouped(follower, read, made, kernel, groups, where)
    if bias is not None and made:
        follower.link(made[0], follower.labels_of(bias)[0])
    shape = [-1 if dim == 1 else 1 for dim in range(output.dim())]
    return [labels.reshape(shape) for labels in made] + batch


def _grouped(follower, read, made, kernel, groups: int, where: str) -> list[Tensor]:
    """A grouped convolution loses whole groups: what one reads and makes goes together."""
    for labels in kernel:
        follower.fix(labels, f"is shared by the groups of a grouped convolution {where}")
    if not read or not made:
        for labels in read + made:
            follower.fix(labels, f"meets a fixed width {where} (grouped convolution)")
        return []
    inputs, outputs = read[0].view(groups, -1), made[0].view(groups, -1)
    follower.link(follower.tie(inputs, 1), follower.tie(outputs, 1))
    return made


def _normalized(follower, source, vectors, dim: int, what: str) -> list[Tensor]:
    operands = [(source.shape, follower.labels_of(source))]
    for vector in vectors:
        operands += _along(follower, vector, dim, source.dim())
    return follower.combine(operands, set(), what)


def _batch_norm(follower, args, kwargs, output):
    return _normalized(follower, args[0], args[1:5], 1, "batch norm")


def _group_norm(follower, args, kwargs, output):
    arrays = _normalized(follower, args[0], args[1:3], 1, "group norm")
    groups = args[6]
    for labels in arrays:
        if groups > 1 and varying(labels) == {1}:
            follower.tie(labels.flatten().view(groups, -1), 1)
    return arrays


def _layer_norm(follower, args, kwargs, output):
    operands = [_aligned(follower, tensor, output.dim()) for tensor in (args[0], *args[2:4]) if tensor is not None]
    return follower.combine(operands, set(), "layer norm")


def _cat(follower, args, kwargs, output):
    """Along `dim` labels follow each other; elsewhere the parts are laid side by side and must match."""
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    parts = [tensor for tensor in args[0] if tensor.dim() == output.dim()]
    joined = []
    for tensor in parts:
        along = [labels for labels in follower.labels_of(tensor) if dim in varying(labels)]
        shape = [tensor.shape[dim] if d == dim else 1 for d in range(output.dim())]
        joined.append(along[0] if along else torch.full(shape, FIXED, dtype=torch.float64))
    across = [
        (
            torch.Size([1 if d == dim else size for d, size in enumerate(tensor.shape)]),
            [labels for labels in follower.labels_of(tensor) if dim not in varying(labels)],
        )
        for tensor in parts
    ]
    arrays = follower.combine(across, set(), "concatenation")
    if any((labels != FIXED).any() for labels in joined):
        extents = torch.broadcast_shapes(*(labels.narrow(dim, 0, 1).shape for labels in joined))
        widths = [[labels.shape[dim] if d == dim else size for d, size in enumerate(extents)] for labels in joined]
        whole = torch.cat([labels.expand(width) for labels, width in zip(joined, widths, strict=True)], dim)
        arrays.append(whole)
    return arrays


def _stack(follower, args, kwargs, output):
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    operands = [(tensor.shape, follower.labels_of(tensor)) for tensor in args[0]]
    return [labels.unsqueeze(dim) for labels in follower.combine(operands, set(), "stacking")]


def _pad(follower, args, kwargs, output):
    source, amounts = args[:2]
    padded = {source.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    kept = []
    for labels in follower.labels_of(source):
        if varying(labels) & padded:
            follower.fix(labels, f"is padded with zeros in '{follower.module}'")
        else:
            kept.append(labels)
    return kept


def _index(follower, args, kwargs, output):
    """A look-up along one dimension, as in tables of position biases; the other dimensions keep their labels."""
    source, indices = args[:2]
    places = [place for place, index in enumerate(indices) if index is not None]
    kept = []
    for labels in follower.labels_of(source):
        if len(places) == 1 and places[0] not in varying(labels):
            place, rank = places[0], indices[places[0]].dim()
            kept.append(labels.reshape(*labels.shape[:place], *(1,) * rank, *labels.shape[place + 1 :]))
        else:
            follower.fix(labels, f"is looked up in '{follower.module}'")
    return kept


def _col2im(follower, args, kwargs, output):
    source, _, kernel, _, padding, stride = args
    if list(kernel) == list(stride) and not any(padding):
        arrays = [labels.expand(source.shape) for labels in follower.labels_of(source)]
        return [shrunk(torch.ops.aten.col2im(labels, *args[1:])) for labels in arrays]
    for labels in follower.labels_of(source):
        follower.fix(labels, f"is folded from overlapping patches in '{follower.module}'")
    return []


def _embedding(follower, args, kwargs, output):
    return _index(follower, (args[0], [args[1]]), {}, output)


RULES = {
    "mm": _product,
    "addmm": _product,
    "bmm": _product,
    "baddbmm": _product,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "cat": _cat,
    "stack": _stack,
    "col2im": _col2im,
    "constant_pad_nd": _pad,
    "index": _index,
    "embedding": _embedding,
}
