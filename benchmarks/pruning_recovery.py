"""The training after pruning of `pruning_peers.py`: the same for all methods."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator

import torch
from pruning_cases import Images, Material
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 2.0
TRY_EPOCHS = 1  # by which a learning rate is chosen
WARM_UP = 0.1  # of the steps
SLOWEST = 0.999  # share of the average that stays in a step
CLIP = 5.0
EVALUATED = 500


def recover(material: Material, pruned: nn.Module, epochs: int, seed: int, looked_at: list[int]) -> dict:
    """Train copies of a pruned model and return the accuracy on the test images after some epochs.

    The learning rate is that of the case's with which a short training gives the best held-out accuracy.
    """
    tries = {}
    for rate in material.case.rates:
        *_, (_, last, _) = _train(material, pruned, min(TRY_EPOCHS, epochs), rate, seed)
        tries[rate] = accuracy(material, last, material.held_out)
    rate = max(tries, key=tries.__getitem__)
    found, held_out, without_average = {}, {}, {}
    for epoch, average, model in _train(material, pruned, epochs, rate, seed):
        if epoch in looked_at:
            found[epoch] = accuracy(material, average, material.test)
            held_out[epoch] = accuracy(material, average, material.held_out)
            without_average[epoch] = accuracy(material, model.eval(), material.held_out)
            print(f"{epoch} epochs: {found[epoch]:.4f}", flush=True)
    return {"rate": rate, "tries": tries, "after": found, "held_out": held_out, "without_average": without_average}


def _train(
    material: Material, pruned: nn.Module, epochs: int, rate: float, seed: int
) -> Iterator[tuple[int, nn.Module, nn.Module]]:
    """Yield after each epoch its number, the moving average of the model's weights, and the model.

    The loss is the KL divergence from the unpruned model's answers at temperature 2, and the cross-entropy with the
    labels; the learning rate rises for a tenth of the steps and falls along a cosine.
    """
    case, train = material.case, material.train
    torch.manual_seed(seed)
    random = torch.Generator(material.device).manual_seed(seed)
    teacher = placed(material, copy.deepcopy(material.model)).requires_grad_(False)
    model = placed(material, copy.deepcopy(pruned)).requires_grad_()
    average = copy.deepcopy(model).requires_grad_(False).eval()
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    parameters = list(model.parameters())
    optimizer = case.optimizer(parameters, rate)
    batches = max(1, len(train) // case.batch)
    steps, step = epochs * batches, 0

    def backward(views: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        with precision(material.device):
            with torch.no_grad():
                expected = teacher(pixel_values=views).logits
            logits = model(pixel_values=views).logits
        _loss(logits.float(), expected.float(), labels).backward()

    gradients = None
    for epoch in range(1, epochs + 1):
        model.train()
        for indices in torch.randperm(len(train), generator=random, device=material.device).split(case.batch)[
            :batches
        ]:
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(step / steps)
            views = material.normalise(augmented(train.pixels[indices], case.zoom, case.shift, random))
            views = views.contiguous(memory_format=torch.channels_last)
            if gradients is None:
                gradients = _replayed(backward, model, views, train.labels[indices])
            gradients(views, train.labels[indices])
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            step += 1
            with torch.no_grad():
                weight = max(1 - SLOWEST, 9 / (10 + step))
                torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), weight)
        yield epoch, average, model


def _replayed(
    backward: Callable[[Tensor, Tensor], None], model: nn.Module, views: Tensor, labels: Tensor
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that launches all of `backward` at once on a GPU, where small models wait for their launches.

    See torch's notes on CUDA graphs: a few passes come before the capture, and batch norms forget them.
    """
    if not views.is_cuda:
        return backward
    state = copy.deepcopy(model.state_dict())
    inputs = (views.clone(), labels.clone())
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            backward(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        backward(*inputs)
    model.load_state_dict(state)

    def replay(*new: Tensor) -> None:
        for tensor, value in zip(inputs, new, strict=True):
            tensor.copy_(value)
        graph.replay()

    return replay


def _loss(logits: Tensor, expected: Tensor, labels: Tensor) -> Tensor:
    said, wanted = ((values / TEMPERATURE).log_softmax(1) for values in (logits, expected))
    divergence = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
    return TEMPERATURE**2 * divergence + F.cross_entropy(logits, labels)


def _share(done: float) -> float:
    """Return by how much of the highest learning rate is trained when a fraction of the steps is done."""
    return (
        (done + 1e-3) / WARM_UP if done < WARM_UP else (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
    )


def placed(material: Material, model: nn.Module) -> nn.Module:
    return model.to(material.device, memory_format=torch.channels_last).eval()


def precision(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def augmented(pixels: Tensor, zoom: float, shift: float, random: torch.Generator) -> Tensor:
    """Return random crops of uint8 images, in their size and mirrored every other time, as floats 0..255.

    Args:
        zoom: the smallest side of a crop, as a fraction of the image's.
        shift: by how much a crop may lie outside the image, likewise; there it is black.
    """
    count, side = len(pixels), pixels.shape[-1]

    def uniform() -> Tensor:
        return torch.rand(count, generator=random, device=pixels.device)

    size = zoom + (1 - zoom) * uniform()
    mirror = torch.where(uniform() < 0.5, -1.0, 1.0)
    matrix = torch.zeros(count, 2, 3, device=pixels.device)
    matrix[:, 0, 0], matrix[:, 1, 1] = size * mirror, size
    for row in (0, 1):
        room = 1 - size + 2 * shift  # in the coordinates of the grid, which go from -1 to 1
        offset = room * (2 * uniform() - 1)
        matrix[:, row, 2] = (offset * side / 2).round() * 2 / side
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels.float(), grid, align_corners=False)


@torch.no_grad()
def accuracy(material: Material, model: nn.Module, images: Images) -> float:
    """Return the share of images that a model, on the device and in eval mode, puts into the right class."""
    right = 0
    for start in range(0, len(images), EVALUATED):
        pixels = material.normalise(images.pixels[start : start + EVALUATED])
        answers = model(pixel_values=pixels.contiguous(memory_format=torch.channels_last)).logits.argmax(1)
        right += int((answers == images.labels[start : start + EVALUATED]).sum())
    return right / len(images)
