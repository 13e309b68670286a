"""The rewrite step: find, build, choose, put in place, and say what it did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.checkpoint.rewrites import Rewritten
from hf_compress.data.images import batches, evenly_spread, spread
from hf_compress.ground.errors import RunError
from hf_compress.ground.outputs import outputs_of
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.steps.base import StepResult
from hf_compress.steps.missed import missed
from hf_compress.steps.rewriting.base import Layer, Rewriting, Unsuitable
from hf_compress.steps.rewriting.config import REWRITINGS, RewriteConfig
from hf_compress.steps.rewriting.finding import find_layers
from hf_compress.steps.rewriting.measuring import (
    Outputs,
    Proposal,
    count_layer_macs,
    measure_logits_errors,
    measure_output_errors,
    relative_error,
    samples,
    top1_agreement,
)
from hf_compress.training.batch_norms import has_batch_norms, reestimate_batch_norm
from hf_compress.training.context import Context

REWRITE_BATCH = 32
TRIAL_IMAGES = 64
MOST_NAMED_LAYERS = 3


def rewrite(model: PreTrainedModel, context: Context, config: RewriteConfig) -> StepResult:
    """Rewrite layers of `model`, in place, without training.

    Errors are measured on validation images; the statistics of batch norms are those of training images where that
    brings the logits nearer to the old ones.

    Returns:
        The model, and what was saved and what went wrong: of every rewritten layer, and of the logits.

    Raises:
        RunError: nothing can be rewritten, or a pattern matches nothing.
    """
    rewriting = REWRITINGS.get(config.kind)()
    images = _pixels(context.data.validation, context, config.images)
    image = images[0][:1]
    before = {"macs": count_macs(model, image), "parameters": count_parameters(model)}
    candidates, skipped = _candidates(model, image, rewriting, context, config)
    expected = measure_output_errors(model, candidates, images)
    if config.budget:
        pixels = torch.cat(images)
        trial = evenly_spread(len(pixels), TRIAL_IMAGES)
        wanted = {name: tensor[trial] for name, tensor in expected.items()}
        measure_logits_errors(model, candidates, pixels[trial].split(REWRITE_BATCH), wanted)
        candidates = within_budget(candidates, before["macs"], config.budget.macs)
    for candidate in candidates:
        candidate.put_into(model, candidate.new)
    errors = {"rewritten": relative_error(outputs_of(model, images), expected)}
    model = _with_statistics(model, context, images, expected, errors)
    after = {"macs": count_macs(model, image), "parameters": count_parameters(model)}
    details = {
        "rewrite": config.kind,
        "rewritten_layers": {candidate.names[0]: candidate.row() for candidate in candidates},
        "skipped_layers": skipped,
        **{key: [before[key], after[key]] for key in before},
        "logits_error": errors,
        "top1_agreement": top1_agreement(outputs_of(model, images), expected),
        "budget_reached": after["macs"] <= config.budget.macs * before["macs"] if config.budget else None,
    }
    _tell(details, context.log)
    if details["budget_reached"] is False:
        gone = 1 - after["macs"] / before["macs"]
        details |= missed("macs", 1 - config.budget.macs, gone, "nothing else can be rewritten", context.log)
    return StepResult(model, details)


def within_budget(candidates: list[Proposal], total: int, fraction: float) -> list[Proposal]:
    """Return candidates that leave at most `fraction` of `total` MACs: least error of the logits a saved MAC first.

    What those that came later made superfluous is left out again. Where all are not enough, all are returned.
    """
    left, chosen = total, []
    for candidate in sorted(candidates, key=lambda each: each.logits_error / each.saved_macs):
        if left <= fraction * total:
            break
        chosen.append(candidate)
        left -= candidate.saved_macs
    for candidate in reversed(chosen.copy()):
        if left + candidate.saved_macs <= fraction * total:
            chosen.remove(candidate)
            left += candidate.saved_macs
    return chosen


def _candidates(
    model: PreTrainedModel, image: Tensor, rewriting: Rewriting, context: Context, config: RewriteConfig
) -> tuple[list[Proposal], dict[str, str]]:
    """Return the layers that can be rewritten, and why the others of the recipe's choice stay.

    Raises:
        RunError: none can be.
    """
    found = find_layers(model, image, rewriting, config)
    training = partial(_pixels, context.data.train, context, config.images)
    candidates, skipped = [], found.skipped
    for names, module in found.modules.items():
        layer = Layer(names[0], module, lambda module=module: samples(model, module, training()))
        try:
            candidate = Proposal(names, module, Rewritten(config.kind, rewriting.replacement(layer, config)))
            _require_usable(model, image, candidate)
        except Unsuitable as reason:
            skipped[names[0]] = str(reason)
        else:
            candidates.append(candidate)
    count_layer_macs(model, candidates, image)
    if rewriting.saves_macs:
        for candidate in [each for each in candidates if each.saved_macs <= 0]:
            candidates.remove(candidate)
            skipped[candidate.names[0]] = "saves no MACs: {} before, {} after".format(*candidate.macs)
    if not candidates:
        examples = {reason.partition(":")[0]: f"'{layer}' {reason}" for layer, reason in reversed(skipped.items())}
        reasons = "; ".join(list(examples.values())[:MOST_NAMED_LAYERS])
        raise RunError(f"'rewrite: {config.kind}' can rewrite none of the {len(skipped)} layers: {reasons}")
    return candidates, skipped


def _require_usable(model: PreTrainedModel, image: Tensor, candidate: Proposal) -> None:
    """Raise `Unsuitable` where the model does not work with the new layers in their place."""
    if len(candidate.names) > 1 and count_parameters(candidate.new):
        raise Unsuitable(f"shares its weights with '{candidate.names[1]}'")
    candidate.put_into(model, candidate.new)
    try:
        outputs_of(model, [image])
    except Exception as error:  # an architecture's own code meets another module than it was written for
        raise Unsuitable(f"cannot be replaced, the model does not run then: {error}") from error
    finally:
        candidate.put_into(model, candidate.old)


def _with_statistics(
    model: PreTrainedModel, context: Context, images: list[Tensor], expected: Outputs, errors: dict[str, float]
) -> PreTrainedModel:
    """Return the model with new statistics of its batch norms, or as it was where that is nearer to its old logits."""
    if not has_batch_norms(model):
        return model
    twin = copy.deepcopy(model)
    reestimate_batch_norm(twin, context)
    errors["batch_norm_reestimated"] = relative_error(outputs_of(twin, images), expected)
    return twin if errors["batch_norm_reestimated"] < errors["rewritten"] else model


def _pixels(split, context: Context, count: int) -> list[Tensor]:
    return [batch["pixel_values"] for batch in batches(spread(split, count), context.processor, REWRITE_BATCH)]


def _tell(details: dict[str, Any], log: Callable[[str], None]) -> None:
    for layer, row in details["rewritten_layers"].items():
        log(f"'{layer}': MACs {row['macs'][0]} -> {row['macs'][1]}, output error {row['output_error']:.1%}")
    reasons: dict[str, list[str]] = {}
    for layer, reason in details["skipped_layers"].items():
        reasons.setdefault(reason, []).append(layer)
    for reason, layers in reasons.items():
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        log(f"stays: '{layers[0]}'{more}: {reason}")
    (macs, macs_left), (parameters, parameters_left) = details["macs"], details["parameters"]
    said = f"off by {min(details['logits_error'].values()):.1%}"
    if details["top1_agreement"] is None:
        said = f"outputs {said}"
    else:
        said = f"logits {said}, the same class for {details['top1_agreement']:.1%} of the validation images"
    log(
        f"{len(details['rewritten_layers'])} layers rewritten: MACs {macs_left / macs:.1%}, parameters "
        f"{parameters_left / parameters:.1%} of before; {said}"
    )
