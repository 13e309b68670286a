"""The order in which blocks go: always the one whose loss changes the outputs least for what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hf_compress.checkpoint.rewrites import Dropped
from hf_compress.ground.choices import Choices
from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import in_rows, output_error, outputs_of
from hf_compress.ground.processor import fastest_device
from hf_compress.ground.progress import bar
from hf_compress.steps.pruning.score.calibration import Calibration

JUDGED = 128  # images


@dataclass(frozen=True)
class Droppable:
    """A block that could go.

    Attributes:
        name: of the module.
        cost: what the model saves without it.
        length: of the tuple that it returns, see `Dropped`.
    """

    name: str
    cost: float
    length: int | None


def order_of_loss(model: nn.Module, blocks: list[Droppable], most: int, calibration: Calibration) -> list[str]:
    """Return the names of the first blocks that should go, in order.

    What two blocks cost together is not the sum of what each costs alone, so all that are left are tried anew after
    each that goes.

    Args:
        model: stays as it is.
        most: how many to return.
    """
    trial = twin(model).to(fastest_device())
    images = list(calibration.first(JUDGED).pixel_values())
    choices = Choices()
    with choices.recorded():
        expected = in_rows(outputs_of(trial, images)).double()
    left, order, error = list(blocks), [], 0.0
    with bar() as shown:
        task = shown.add_task("Trying models without a block", total=sum(len(blocks) - n for n in range(most)))

        def error_without(block: Droppable) -> float:
            module = trial.get_submodule(block.name)
            trial.set_submodule(block.name, Dropped(block.length))
            with choices.repeated():
                found = output_error(trial, images, expected)
            trial.set_submodule(block.name, module)
            shown.advance(task)
            return found

        while len(order) < most:
            errors = {block: error_without(block) for block in left}
            best = min(left, key=lambda block: (errors[block] - error) / block.cost)
            trial.set_submodule(best.name, Dropped(best.length))
            left.remove(best)
            order.append(best.name)
            error = errors[best]
    return order
