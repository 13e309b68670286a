"""What a unit of each group costs."""

from torch import Tensor, nn

from hf_compress.measure.cost import macs_by_module
from hf_compress.steps.pruning.tracing.groups import Group, is_layer_weight


def unit_macs(model: nn.Module, groups: list[Group], image: Tensor) -> dict[str, float]:
    """Return the multiply-accumulates that go with one unit while all others stay, by group.

    Args:
        image: one input, shape (1, 3, height, width).
    """
    macs = macs_by_module(model, image)

    def share(group: Group) -> float:
        weights = [m for m in group.members if is_layer_weight(model.get_submodule(m.axis.module), m.axis)]
        return sum(macs.get(m.axis.module, 0) * m.indices.shape[1] / m.axis.size for m in weights)

    return {group.name: max(share(group), 1) for group in groups}
