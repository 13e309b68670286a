"""The one counter of multiply-accumulates: torch's own, taught the operators that it leaves out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten


class MacCounter(FlopCounterMode):
    """Counts multiply-accumulates of matrix products and convolutions; see `counting_macs`."""

    def __init__(self):
        super().__init__(display=False, custom_mapping=FORMULAS)

    @property
    def macs(self) -> int:
        return self.get_total_flops() // 2

    def by_module(self) -> dict[str, int]:
        """Return the multiply-accumulates by module, named as torch's module tracker names them."""
        return {name: sum(flops.values()) // 2 for name, flops in self.get_flop_counts().items()}


@contextmanager
def counting_macs() -> Iterator[MacCounter]:
    """Count in a `with` block, without gradients, and without torch's fused transformer layers, which hide products.

    The parameters must be frozen: torch's counter watches for gradients, and fails where a module returns a parameter.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), MacCounter() as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Every query meets every key, whatever the mask: as torch counts the attention of GPUs, and as `bmm` does."""
    return sdpa_flop_count(query, key, value)


def _matrix_vector(*shapes: Any, **kwargs: Any) -> int:
    """Count as many products as the matrix, or the first vector, has entries; it comes last but one."""
    return 2 * prod(shapes[-2])


def _added_batch(added: Any, first: Any, second: Any, **kwargs: Any) -> int:
    return 2 * prod(first) * second[-1]


def _recurrent(x: Any, to_hidden: Any, hidden_to_hidden: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(x[:-1]) * (prod(to_hidden) + prod(hidden_to_hidden))


FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math_for_mps: _attention,
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _matrix_vector,
    aten.addbmm: _added_batch,
    aten.mkldnn_rnn_layer: _recurrent,
}
