"""The interface of a kind of rewrite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_compress.steps.rewriting.config import REWRITINGS, RewriteConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

register_rewrite = REWRITINGS.register


class Unsuitable(Exception):
    """A layer cannot be rewritten; the message is the reason that stands in the report."""


@dataclass(frozen=True)
class Layer:
    """A layer to rewrite.

    Attributes:
        name: where it lies in the model.
        samples: called, gives what the layer reads and makes on training images, batch by batch.
    """

    name: str
    module: nn.Module
    samples: Callable[[], Iterator[tuple[Tensor, Tensor]]]


class Rewriting(ABC):
    """A kind of rewrite, registered under its name.

    Attributes:
        subject: what it rewrites, in the plural, for messages.
        functions: operations of torch (`gelu`, `max_pool2d`) that do the same as a layer that can be rewritten; where
            an architecture calls one itself, the report says that it stays.
        saves_macs: whether a layer is only rewritten where that leaves fewer MACs.
    """

    subject: ClassVar[str]
    functions: ClassVar[tuple[str, ...]] = ()
    saves_macs: ClassVar[bool] = True

    @abstractmethod
    def concerns(self, module: nn.Module) -> bool:
        """Tell whether a module is one that the report must account for, rewritten or not."""

    @abstractmethod
    def replacement(self, layer: Layer, config: RewriteConfig) -> list[nn.Module]:
        """Return the layers that take the place of `layer`, one after the other: see `checkpoint.rewrites.Rewritten`.

        Raises:
            Unsuitable: the layer stays as it is.
        """
