"""What a run changed in every layer."""

from torch import nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


def layer_changes(before: nn.Module, after: nn.Module) -> dict[str, dict[str, list]]:
    """Compare the convolutions and linear layers of two models.

    Returns:
        `{layer: {"width": [before, after], "sparsity": [before, after]}}`: output channels, and the fraction of zeros
        among the weights; None where a model has no such layer.
    """
    old, new = _layers(before), _layers(after)
    return {
        name: {key: [model.get(name, {}).get(key) for model in (old, new)] for key in ("width", "sparsity")}
        for name in dict.fromkeys([*old, *new])
    }


def _layers(model: nn.Module) -> dict[str, dict[str, float]]:
    return {
        name: {"width": len(module.weight), "sparsity": round(float((module.weight == 0).float().mean()), 4)}
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    }
