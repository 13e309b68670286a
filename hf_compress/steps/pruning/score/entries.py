"""The criterion `obs` for single weights: in each row they go one after the other, and the others make up for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import in_rows, output_tensors
from hf_compress.ground.processor import fastest_device, full_float32
from hf_compress.ground.progress import track
from hf_compress.steps.pruning.repair.linear import as_matrix, columns, output_dim
from hf_compress.steps.pruning.repair.moments import Moments
from hf_compress.steps.pruning.repair.places import find_places
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.reading import look
from hf_compress.steps.pruning.tracing.groups import Group

DAMPING = 0.1  # of the mean second moment of the inputs, as the ridge of the repair
TURNS = 32  # in which the entries of a row go, several at a time
WIDEST = 512  # inputs that are looked at together
MOST_INPUTS = 2**13  # that are looked at otherwise than each by itself
SAMPLES = 2**18  # of what a layer reads
LEAST = 1e-6  # of the largest: rows of which the outputs show nothing keep an order
JUDGED = 64  # images by which outputs of layers are weighed
MEMORY = 2**30  # bytes of second moments at a time
WORK = 2**22  # numbers of inverses at a time: what the caches of processors hold
TINY = 1e-12


@full_float32()
def entry_losses(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Return the importance of each entry, or slice, of each weight by group, shape (units,).

    An entry's is by how much the squared error of the model's outputs grows when it goes in its turn: the error of the
    row's output, times the squared gradient of the outputs by that. A slice's is the sum of those of its entries.
    Within a row of the weight, scores rise in the order in which entries go.

    Rows with more than 512 inputs are looked at in parts, and other parts count as if all of them stayed. In weights
    with more than 8,192 inputs, convolutions in one or three dimensions, and layers that no image runs through as
    modules, an entry's is its square times the second moment of its input, as if the others made up for nothing.
    """
    model = twin(model).to(fastest_device())
    places, _ = find_places(model, next(calibration.pixel_values()))
    normed = {place.layer for place in places if place.norm is not None}
    by_layer = {group.members[0].axis.module: group for group in groups}
    slopes = _slopes(model, by_layer, calibration)
    scores = {}
    for layer, reads in _reads(model, list(by_layer), calibration):
        group, module = by_layer[layer], model.get_submodule(layer)
        weight = as_matrix(module).detach().double()
        if layer in slopes:
            weight = weight * slopes[layer].view(len(weight), -1, 1)
        offset = module.bias is not None or layer in normed
        losses = weight_losses(weight, reads.gram(offset).to(weight), module.weight.shape[1], group.pattern)
        scores[group.name] = group.members[0].sums(losses.reshape(module.weight.shape)).float().cpu()
    return scores


@torch.enable_grad()
def _slopes(model: nn.Module, layers: Iterable[str], calibration: Calibration) -> dict[str, Tensor]:
    """Return how far the model's outputs move with each output of a layer, shape (outputs,), in the root mean square.

    Squares of the gradient of a sum of all numbers with random signs are, in the mean, the sum of the squares of
    their gradients (Hutchinson, 1990, "A stochastic estimator of the trace of the influence matrix").
    """
    squares: dict[str, Tensor | float] = {}
    count, generator = 0, torch.Generator().manual_seed(0)

    def watched(name: str) -> Callable:
        def add(gradient: Tensor, dim: int) -> None:
            by_output = gradient.double().square().transpose(0, dim).flatten(1).sum(1)
            squares[name] = squares.get(name, 0.0) + by_output

        def after(layer: nn.Module, args: tuple, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(partial(add, dim=output_dim(layer)))

        return after

    handles = [model.get_submodule(name).register_forward_hook(watched(name)) for name in layers]
    for images in calibration.first(JUDGED).pixel_values():
        images = images.detach().requires_grad_()
        numbers = in_rows(output_tensors(model(pixel_values=images)))
        signs = torch.randint(2, numbers.shape, generator=generator).to(numbers) * 2 - 1
        torch.autograd.grad((numbers * signs).sum(), images)
        count += len(images)
    for handle in handles:
        handle.remove()
    return {name: (sums / count).clamp_min(LEAST * sums.max() / count).sqrt() for name, sums in squares.items()}


def weight_losses(weight: Tensor, gram: Tensor, channels: int, pattern: tuple[int, int] | None) -> Tensor:
    """Return the loss at which each entry goes, in the weight's shape.

    Args:
        weight: shape (groups, outputs, inputs), in the order of `linear.as_matrix`.
        gram: second moments of the inputs, shape (groups, inputs, inputs); or (groups, inputs), of each by itself.
        channels: inputs at one position of the kernel.
        pattern: (n, m) where only so many entries go that n of each m neighbouring channels are left.
    """
    if gram.dim() == 2:
        return weight.square() * gram[:, None]
    inputs = weight.shape[2]
    by_position = torch.arange(inputs, device=weight.device).view(channels, -1).T.flatten()
    damping = DAMPING * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).clamp_min(TINY)
    inverse = torch.linalg.inv(gram + torch.diag_embed(damping.expand(-1, inputs)))
    multiple = pattern[1] if pattern else 1
    parts = -(-inputs // WIDEST)
    size = -(-inputs // parts // multiple) * multiple
    losses = torch.empty_like(weight)
    for part in by_position.split(size):
        inverse_part = inverse[:, part][:, :, part].float()
        rows = weight[:, :, part].float()
        owners = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        count = max(1, WORK // len(part) ** 2)
        found = [
            row_losses(some, inverse_part[of], pattern)
            for some, of in zip(rows.flatten(0, 1).split(count), owners.split(count), strict=True)
        ]
        losses[:, :, part] = torch.cat(found).view(rows.shape).to(losses)
    return losses


def row_losses(weight: Tensor, inverse: Tensor, pattern: tuple[int, int] | None) -> Tensor:
    """Return the loss at which each entry of each row goes, shape (rows, inputs).

    Args:
        weight: shape (rows, inputs).
        inverse: of the second moments of the inputs, shape (rows, inputs, inputs); changed in place.
        pattern: (n, m) where n of each m neighbours stay.
    """
    rows, inputs = weight.shape
    stay = inputs * pattern[0] // pattern[1] if pattern else 0
    left = torch.arange(inputs, device=weight.device).expand(rows, -1)
    order, losses = [], []
    while left.shape[1] > stay:  # what is gone is left out of the sums only now and then: copies take time
        rest = max(left.shape[1] // 2, stay)
        is_gone = torch.zeros_like(weight, dtype=torch.bool)
        for turn in torch.arange(left.shape[1] - rest).split(-(-inputs // TURNS)):
            found = (weight.square() / inverse.diagonal(dim1=1, dim2=2)).masked_fill(is_gone, torch.inf)
            gone = _free(found, left, inputs, pattern).argsort(dim=1, stable=True)[:, : len(turn)]
            order.append(left.gather(1, gone))
            losses.append(found.gather(1, gone))
            is_gone.scatter_(1, gone, True)
            weight = _made_up_for(weight, inverse, gone)
        stays = is_gone.int().argsort(dim=1, stable=True)[:, :rest]
        left, weight = left.gather(1, stays), weight.gather(1, stays)
        inverse = _columns_of(_rows_of(inverse, stays), stays)
    order.append(left)
    losses.append(weight.square() / inverse.diagonal(dim1=1, dim2=2))
    rising = torch.arange(1, inputs + 1, device=weight.device) * 1e-6 + 1  # equal losses keep their order
    rising = torch.cat(losses, dim=1).cummax(dim=1).values * rising
    return torch.empty_like(rising).scatter_(1, torch.cat(order, dim=1), rising)


def _made_up_for(weight: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """Return the rows without some entries, (rows, gone); `inverse` becomes that of the others, in place."""
    of_gone = _rows_of(inverse, gone)
    by_others = torch.linalg.solve(_columns_of(of_gone, gone), of_gone)
    inverse.baddbmm_(of_gone.mT, by_others, alpha=-1)
    return (weight - (weight.gather(1, gone)[:, None] @ by_others).squeeze(1)).scatter(1, gone, 0)


def _rows_of(matrices: Tensor, rows: Tensor) -> Tensor:
    return matrices.gather(1, rows[:, :, None].expand(-1, -1, matrices.shape[2]))


def _columns_of(matrices: Tensor, columns: Tensor) -> Tensor:
    return matrices.gather(2, columns[:, None].expand(-1, matrices.shape[1], -1))


def _free(losses: Tensor, left: Tensor, inputs: int, pattern: tuple[int, int] | None) -> Tensor:
    """Return the losses of what is left, infinite where it stays: in each m neighbours the n most important."""
    if pattern is None:
        return losses
    n, m = pattern
    whole = torch.full((len(left), inputs), torch.inf, device=losses.device).scatter_(1, left, losses)
    blocks = whole.view(len(left), -1, m)
    ranks = blocks.argsort(dim=2, stable=True).argsort(dim=2)
    blocks = blocks.masked_fill(ranks >= blocks.isfinite().sum(2, keepdim=True) - n, torch.inf)
    return blocks.flatten(1).gather(1, left)


class _Reads:
    """What a layer reads, in sums by group of the layer: over products of its inputs, or over squares of them."""

    def __init__(self, layer: nn.Module):
        self.groups, _, self.inputs = as_matrix(layer).shape
        self.has_columns = not isinstance(layer, nn.Conv1d | nn.Conv3d)
        self.are_single = self.inputs > MOST_INPUTS or not self.has_columns
        self.moments = Moments()
        self.count, self.squares = 0, torch.zeros(self.groups, self.inputs, dtype=torch.float64)

    @property
    def bytes(self) -> int:
        return 8 * self.groups * self.inputs * (1 if self.are_single else self.inputs)

    def add(self, layer: nn.Module, source: Tensor) -> None:
        if self.count >= SAMPLES:
            return
        read = columns(layer, source) if self.has_columns else source.square().mean().sqrt().view(1, 1, 1)
        self.count += read.shape[1]
        if self.are_single:
            self.squares = self.squares.to(read.device) + read.square().sum(1)
        else:
            self.moments.add(read, read[:, :, :0])

    def gram(self, centred: bool) -> Tensor:
        """Return the mean products, (groups, inputs, inputs), around mean or zero; or squares, (groups, inputs)."""
        if not self.count:
            return torch.ones_like(self.squares)
        return self.squares / self.count if self.are_single else self.moments.means(centred)[2]


def _reads(model: nn.Module, names: list[str], calibration: Calibration) -> Iterator[tuple[str, _Reads]]:
    """Yield what each layer reads: the images are looked at as often as a gibibyte of these takes."""
    reads: dict[str, _Reads] = {}
    for number, name in enumerate(names):
        reads[name] = _Reads(model.get_submodule(name))
        following = _Reads(model.get_submodule(names[number + 1])).bytes if number + 1 < len(names) else MEMORY
        if sum(each.bytes for each in reads.values()) + following > MEMORY:
            look(model, reads, calibration, lambda name, *read, reads=reads: reads[name].add(*read))
            yield from track(reads.items(), "Asking the surgeon")
            reads = {}
