"""Small networks with all that a repair must see, images for them, and what must hold when passes are over."""

from collections import Counter

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


class Tally(Counter):
    """Counts for a model and all copies of it."""

    def __deepcopy__(self, memo):
        return self


class Net(nn.Module):
    """A stem, a residual block (its last layer `narrow` may have a norm) and a classifier."""

    def __init__(self, width=8, hidden=12, norm=True, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.wide = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(hidden)
        self.narrow = nn.Conv2d(hidden, width, 1, bias=not norm)
        self.narrow_norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.classify = nn.Linear(width, 5)
        self.before_addition = nn.Identity()
        self.calls, self.passes = Counter(), Tally()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                    values.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, pixel_values):
        try:
            x = self.stem(pixel_values).relu()
            y = self.narrow_norm(self.narrow(self.wide_norm(self.wide(x)).relu()))
            x = x + self.before_addition(y)
            return {"logits": self.classify(x.relu().mean((2, 3)))}
        finally:
            self.passes["ended"] += 1

    @property
    def ended(self):
        return self.passes["ended"]


LAYERS = ["stem", "wide", "narrow", "classify"]


def photos(batches=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(6, 3, 8, 8, generator=generator) for _ in range(batches)]


def counted(model):
    """Count the calls of each layer's `forward`."""
    for name in LAYERS:
        layer = model.get_submodule(name)
        plain = layer.forward

        def forward(source, name=name, plain=plain):
            model.calls[name] += 1
            return plain(source)

        layer.forward = forward
    return model


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def assert_all_is_over(*models):
    assert sum(hooks(model) for model in models) == 0
    assert torch.is_grad_enabled()
    assert _get_current_dispatch_mode() is None


class Shared(Net):
    """Two layers have one norm."""

    def __init__(self, **options):
        super().__init__(**options)
        self.other = nn.Conv2d(8, 12, 3, padding=1, bias=False)

    def forward(self, pixel_values):
        x = self.stem(pixel_values).relu()
        x = self.wide_norm(self.wide(x)).relu() + self.wide_norm(self.other(x)).relu()
        return self.classify(self.narrow(x).mean((2, 3)))
