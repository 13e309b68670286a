"""Weight pruning while an ordinary Trainer trains."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import prune
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.gradual import GradualPruning
from hf_compress.steps.pruning.remove.weights import prunable_weights, sparsity

STEPS = 8


def classifier(seed=0):
    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3, num_channels=3
    )
    return ResNetForImageClassification(config)


def images(count=16):
    generator = torch.Generator().manual_seed(0)
    return [
        {"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": number % 3} for number in range(count)
    ]


def config(**options):
    return PruneSection(granularity="weight", floor=0, **options)


def rounds(amount, final, **options):
    return GradualPruning(config(amount=amount, target={"sparsity": final}), **options)


def trainer(model, folder, *callbacks, **options):
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **{"save_strategy": "no", "learning_rate": 1e-2} | options,
    )
    return Trainer(model, arguments, train_dataset=images(), eval_dataset=images(4), callbacks=list(callbacks))


def zeros(model):
    return {name: weight == 0 for name, weight in prunable_weights(model, set()).items()}


def test_rounds_are_spread_evenly_from_start_to_end():
    pruning = rounds(0.2, 0.5, start=0.2, end=0.6)
    assert pruning.rounds == 3
    due = [pruning.amount_at(progress) for progress in (0.0, 0.19, 0.2, 0.39, 0.4, 0.59, 0.6, 1.0)]
    assert due == [0, 0, 0.2, 0.2, 0.4, 0.4, 0.5, 0.5]


def test_a_single_round_prunes_at_the_start():
    pruning = GradualPruning(config(amount=0.3, iterative=False), start=0.25)
    assert [pruning.amount_at(progress) for progress in (0.0, 0.24, 0.25, 0.4)] == [0, 0, 0.3, 0.3]


@given(
    amount=st.floats(0.01, 0.9),
    final=st.floats(0.01, 0.95),
    bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    times=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_the_amount_only_rises_and_ends_at_the_target(amount, final, bounds, times):
    pruning = rounds(amount, final, start=bounds[0], end=bounds[1])
    assert 0 <= pruning.amount_at(times[0]) <= pruning.amount_at(times[1]) <= final
    assert pruning.amount_at(1.0) == final


def test_the_zeros_are_those_of_torch_and_hold_while_the_rest_is_trained(tmp_path):
    model, reference = classifier(), classifier()
    pruning = GradualPruning(config(amount=0.5, iterative=False, scope="global"))
    trainer(model, tmp_path, pruning).train()
    layers = [module for module in reference.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    before = prunable_weights(reference, set())
    start = {name: weight.detach().clone() for name, weight in before.items()}
    prune.global_unstructured([(layer, "weight") for layer in layers], pruning_method=prune.L1Unstructured, amount=0.5)
    for (name, weight), layer in zip(prunable_weights(model, set()).items(), layers, strict=True):
        assert torch.equal(weight == 0, layer.weight_mask == 0), name
        assert not torch.equal(weight[weight != 0], start[name][weight != 0])


def test_every_round_keeps_the_zeros_of_the_one_before(tmp_path):
    model = classifier()
    pruning = rounds(0.2, 0.6, end=0.5)
    history = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            history.append(zeros(model))

    trainer(model, tmp_path, pruning, Watch()).train()
    assert len(history) == STEPS
    for earlier, later in pairwise(history):
        assert all(later[name][mask].all() for name, mask in earlier.items())
    amounts = [sum(int(mask.sum()) for mask in masks.values()) for masks in history]
    assert len(set(amounts)) == 3
    assert pruning.sparsity == pytest.approx(0.6, abs=0.01)
    assert sparsity(prunable_weights(model, set())) == pruning.sparsity


def test_a_resumed_training_goes_on_where_it_stopped(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3}
    whole = classifier()
    trainer(whole, tmp_path, rounds(0.2, 0.6, end=0.75), **options).train()
    resumed = classifier(seed=1)
    trainer(resumed, tmp_path, rounds(0.2, 0.6, end=0.75), **options).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-3")
    )
    for name, weight in prunable_weights(whole, set()).items():
        assert torch.equal(weight, prunable_weights(resumed, set())[name])


def test_a_checkpoint_from_before_the_last_round_is_never_the_best(tmp_path):
    model = classifier()
    task = trainer(
        model,
        tmp_path,
        rounds(0.3, 0.6, end=0.6),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    task.compute_metrics = lambda output: {"score": -task.state.global_step}
    task.train()
    assert task.state.best_model_checkpoint.endswith(f"checkpoint-{STEPS}")
    assert sparsity(prunable_weights(model, set())) == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"granularity": "channel"}, "granularity='weight'"),
        ({"granularity": "weight"}, "name the final sparsity in 'target'"),
    ],
)
def test_what_cannot_be_done_while_training(options, says):
    with pytest.raises(UsageError, match=says):
        GradualPruning(PruneSection(**options))


def test_start_and_end_in_order():
    with pytest.raises(UsageError, match=r"start at 0\.6 and end at 0\.5"):
        rounds(0.1, 0.5, start=0.6)


def test_excluded_layers_stay_whole(tmp_path):
    model = classifier()
    pruning = GradualPruning(config(amount=0.5, iterative=False, exclude=["classifier.*"]))
    trainer(model, tmp_path, pruning).train()
    assert (model.classifier[1].weight != 0).all()
    with pytest.raises(RunError, match="matches no layer"):
        trainer(model, tmp_path, GradualPruning(config(iterative=False, exclude=["nowhere"]))).train()
