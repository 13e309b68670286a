"""What a unit of each group costs."""

from torch import Tensor, nn

from hf_compress.ground.looking import twin
from hf_compress.measure.cost import counting_macs
from hf_compress.steps.pruning.tracing.groups import Group, is_layer_weight


def unit_macs(model: nn.Module, groups: list[Group], image: Tensor) -> dict[str, float]:
    """Return the multiply-accumulates that go with one unit while all others stay, by group.

    Args:
        image: one input, shape (1, 3, height, width).
    """
    with counting_macs() as counter:
        twin(model)(pixel_values=image)
    macs, root = counter.by_module(), type(model).__name__

    def share(group: Group) -> float:
        weights = [m for m in group.members if is_layer_weight(model.get_submodule(m.axis.module), m.axis)]
        return sum(macs.get(f"{root}.{m.axis.module}", 0) * m.indices.shape[1] / m.axis.size for m in weights)

    return {group.name: max(share(group), 1) for group in groups}
