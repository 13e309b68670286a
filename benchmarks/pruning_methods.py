"""The methods of `pruning_peers.py`: each returns a smaller model with the multiply-accumulates asked for."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from pruning_cases import Material
from pruning_recovery import placed
from torch import Tensor, nn
from torch.nn import functional as F

from hf_compress.measure.cost import count_macs
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.removal import kept_in_turn
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.steps.pruning.targets import removed_to_target
from hf_compress.tasks.classification import CLASSIFICATION

TOLERANCE = 0.01  # of the multiply-accumulates asked for
BISECTIONS = 14
FLOOR = 0.1  # of each width, which always stays
TAYLOR, HESSIAN = 640, 256  # images with labels by which these criteria go: batches of 64, and single images


class OutOfReach(Exception):
    """A method has no model with about the multiply-accumulates asked for."""


def unpruned(material: Material, amount: float) -> nn.Module:
    return copy.deepcopy(material.model)


def ours(material: Material, amount: float, rounds: int = 1) -> nn.Module:
    """The recipe `prune-without-training`: 256 images without labels; the MACs go in one round or several."""
    model, case = material.model, material.case
    options = {"importance": "obs", "scope": "cost", "floor": FLOOR, "round_to": case.round_to, "iterative": False}
    config = PruneSection(**options, target={"macs": amount})
    images = [{"view": view, "label": -100} for view in material.calibration.pixels.cpu()]
    calibration = Calibration(images, material.processor, model, CLASSIFICATION)
    pruner = ChannelPruner(model, material.image, config, set())
    macs = count_macs(model, material.image)

    def gone(trial: nn.Module) -> dict[str, float]:
        return {"macs": 1 - count_macs(trial, material.image) / macs}

    whole, pruned, kept = copy.deepcopy(model).to(material.device), model, {}
    for number in range(1, rounds + 1):
        now = PruneSection(**options, target={"macs": 1 - (1 - amount) ** (number / rounds)})
        scores = score(pruned, pruner.groups(pruned), now, calibration)
        pruned, left, _ = removed_to_target(pruned, scores, pruner, gone, now, 0.0, 1 - FLOOR)
        kept = kept_in_turn(kept, left)
        least_squares(whole, pruned.to(material.device), kept, calibration.pixel_values())
        pruned.cpu()
    return pruned


def torch_pruning(material: Material, amount: float, importance: str, scope: str) -> nn.Module:
    """torch-pruning's `BasePruner`, whose pruning ratio is bisected until as many multiply-accumulates are left."""
    import torch_pruning as tp

    if importance in ("l1", "l2"):
        criterion, gradients = tp.importance.MagnitudeImportance(p=int(importance[1])), {}
    elif importance == "taylor":
        criterion, gradients = tp.importance.TaylorImportance(), mean_gradients(material, TAYLOR, 64)
    else:  # its own `accumulate_grad` keeps the last image alone
        criterion, gradients = tp.importance.HessianImportance(), mean_gradients(material, HESSIAN, 1)

    def pruned(ratio: float, round_to: int = material.case.round_to) -> nn.Module:
        model = copy.deepcopy(material.model)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients.get(name, torch.zeros(())).expand_as(parameter).clone()
        heads, unwrapped = _attention_of(model)
        divided = _divide_head(model) if heads else None
        tp.pruner.BasePruner(
            model,
            {"pixel_values": material.image},
            importance=criterion,
            global_pruning=scope != "layer",
            isomorphic=scope == "isomorphic",
            pruning_ratio=ratio,
            max_pruning_ratio=1 - FLOOR,
            round_to=round_to,
            num_heads=heads,
            unwrapped_parameters=unwrapped,
            ignored_layers=_left_alone(model),
            forward_fn=divided,
            output_transform=lambda output: getattr(output, "logits", output).sum(),
        ).step()
        for module in model.modules():
            if hasattr(module, "q_proj"):
                module.head_dim = module.q_proj.out_features // module.num_attention_heads
        if heads:
            _join_head(model)
        return model.requires_grad_(False).eval()

    try:
        return _with_macs(material, amount, pruned)
    except OutOfReach:  # in global ranking, widths that are multiples of 8 can jump over the amount
        return _with_macs(material, amount, partial(pruned, round_to=1))


def mean_gradients(material: Material, count: int, batch: int) -> dict[str, Tensor]:
    """Return each parameter's gradient of the loss with labels, summed over batches; single images': mean squares."""
    model = placed(material, copy.deepcopy(material.model)).requires_grad_()
    train, sums = material.train, {}
    for start in range(0, min(count, len(train)), batch):
        part = train.take(list(range(start, min(start + batch, len(train)))))
        model.zero_grad()
        F.cross_entropy(model(pixel_values=material.normalise(part.pixels)).logits, part.labels).backward()
        for name, parameter in model.named_parameters():
            found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            sums[name] = sums.get(name, 0) + (found.square() if batch == 1 else found)
    return {name: (total / count).cpu() for name, total in sums.items()}


def fastnas(material: Material, amount: float) -> nn.Module:
    """NVIDIA ModelOpt's FastNAS; a width's worth is the KL divergence of the answers to 256 images."""
    import modelopt.torch.prune as mtp

    calibration = material.normalise(material.calibration.pixels).split(64)
    expected = _answers(Answering(material.model).to(material.device), calibration)
    material.model.cpu()

    def nearness(model: nn.Module) -> float:
        return -float(F.kl_div(_answers(model, calibration), expected, reduction="batchmean", log_target=True))

    divisor = max(4, material.case.round_to)
    ratios = tuple(n / 10 for n in range(1, 11))
    widths = {"channels_ratio": ratios, "channel_divisor": divisor}
    features = {"features_ratio": ratios, "feature_divisor": divisor}
    rules = {"nn.Conv2d": {"*": widths}, "nn.BatchNorm2d": {"*": features}, "nn.Linear": {"*": features}}
    rules["nn.LayerNorm"] = {"*": features}
    with tempfile.TemporaryDirectory() as folder:

        def pruned(ratio: float) -> nn.Module:
            found, _ = mtp.prune(
                Answering(copy.deepcopy(material.model)).to(material.device),
                mode=[("fastnas", rules)],
                constraints={"flops": f"{100 * (1 - ratio):.2f}%"},
                dummy_input=material.image.to(material.device),
                config={
                    "data_loader": calibration,
                    "collect_func": lambda pixels: pixels,
                    "score_func": nearness,
                    "checkpoint": f"{folder}/scores.pth",  # of the layers alone, once for all amounts
                },
            )
            return found.model.cpu().eval()

        return _with_macs(material, amount, pruned)


class Answering(nn.Module):
    """A classifier of transformers as ModelOpt wants it: a tensor in, a tensor out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).logits


METHODS: dict[str, Callable[[Material, float], nn.Module]] = {
    "ours": ours,
    "ours-3": partial(ours, rounds=3),
    "tp-l1": partial(torch_pruning, importance="l1", scope="global"),
    "tp-l1-layer": partial(torch_pruning, importance="l1", scope="layer"),
    "tp-l2": partial(torch_pruning, importance="l2", scope="global"),
    "tp-taylor": partial(torch_pruning, importance="taylor", scope="global"),
    "tp-hessian": partial(torch_pruning, importance="hessian", scope="global"),
    "tp-isomorphic": partial(torch_pruning, importance="taylor", scope="isomorphic"),
    "fastnas": fastnas,
    "unpruned": unpruned,
}


def _with_macs(material: Material, amount: float, pruned: Callable[[float], nn.Module]) -> nn.Module:
    """Return the model nearest to the multiply-accumulates asked for.

    Raises:
        OutOfReach: none is as near as 1 %.
    """
    macs = count_macs(material.model, material.image)
    low, high, best, least = 0.0, 0.95, None, float("inf")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        trial = pruned(middle)
        left = count_macs(trial, material.image) / macs / (1 - amount)
        if abs(left - 1) < least:
            best, least = trial, abs(left - 1)
        if least < TOLERANCE / 5:
            break
        low, high = (middle, high) if left > 1 else (low, middle)
    if least > TOLERANCE:
        raise OutOfReach(f"the nearest model has {least:.1%} more or less multiply-accumulates than asked for")
    return best


def _attention_of(model: nn.Module) -> tuple[dict[nn.Module, int], list[tuple[nn.Parameter, int]]]:
    """Return the heads of each projection of a transformer, and each parameter outside layers with its axis."""
    heads = {
        getattr(module, name): module.num_attention_heads
        for module in model.modules()
        if hasattr(module, "q_proj")
        for name in ("q_proj", "k_proj", "v_proj")
    }
    inside = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm)
        for parameter in module.parameters()
    }
    outside = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return heads, [(parameter, parameter.dim() - 1) for parameter in outside]


def _divide_head(model: nn.Module) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    """Give DINOv2's classifier a part for the class token and one for the mean, and return the forward pass by them.

    torch-pruning takes half of the channels that must go from a layer that reads the same ones twice.
    """
    weight, bias = model.classifier.weight, model.classifier.bias
    parts = zip(weight.detach().chunk(2, dim=1), weight.grad.chunk(2, dim=1), strict=True)
    model.classifier = nn.ModuleList()
    for part, gradient in parts:
        linear = nn.Linear(part.shape[1], part.shape[0])
        linear.weight.data, linear.weight.grad = part.clone(), gradient.clone()
        linear.bias.data, linear.bias.grad = bias.detach() / 2, bias.grad.clone()
        model.classifier.append(linear)

    def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        hidden = model.dinov2(**inputs).last_hidden_state
        first, second = model.classifier
        return first(hidden[:, 0]) + second(hidden[:, 1:].mean(dim=1))

    return forward


def _join_head(model: nn.Module) -> None:
    weight = torch.cat([linear.weight for linear in model.classifier], dim=1)
    joined = nn.Linear(weight.shape[1], weight.shape[0])
    joined.weight.data, joined.bias.data = weight.detach(), 2 * model.classifier[0].bias.detach()
    model.classifier = joined


def _left_alone(model: nn.Module) -> list[nn.Module]:
    """Return what torch-pruning must not touch: the classifier, and what zero-padded shortcuts tie together."""
    if hasattr(model, "classifier"):
        return [model.classifier]
    inner = [module.conv1 for module in model.modules() if hasattr(module, "extra_channels")]
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear) and module not in inner]


@torch.no_grad()
def _answers(model: nn.Module, batches: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([model(pixels) for pixels in batches]).log_softmax(1)
