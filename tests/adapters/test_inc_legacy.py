"""The vocabulary of Neural Compressor 3.7.1: scripts, schedules, patterns, criteria, losses and errors."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from hf_compress.adapters.neural_compressor import (
    DistillationConfig,
    IntermediateLayersKnowledgeDistillationLossConfig,
    KnowledgeDistillationLossConfig,
    QuantizationAwareTrainingConfig,
    SelfKnowledgeDistillationLossConfig,
    WeightPruningConfig,
    prepare_compression,
)
from hf_compress.adapters.neural_compressor.legacy.configs import PrunerOptions
from hf_compress.adapters.neural_compressor.legacy.pruner import Pruner, scheduled_sparsity
from hf_compress.errors import UsageError
from hf_compress.steps.pruning.config import PruneConfig as PruneSection
from hf_compress.steps.pruning.remove.weights import WeightPruner, prunable_weights, sparsity

OLD_SCRIPT = """
from neural_compressor.training import prepare_compression, WeightPruningConfig

configs = [
    {
        "op_names": [".*"],
        "excluded_op_names": ["stem"],
        "start_step": 0,
        "end_step": 0,
        "target_sparsity": 0.6,
        "pruning_type": "magnitude",
        "pattern": "1x1",
        "pruning_scope": SCOPE,
        "pruning_frequency": 1,
    },
]
config = WeightPruningConfig(configs)
compression_manager = prepare_compression(model, config)
compression_manager.callbacks.on_train_begin()
for epoch in range(2):
    model.train()
    for step, (images, labels) in enumerate(train_dataloader):
        compression_manager.callbacks.on_step_begin(step)
        loss = criterion(model(images), labels)
        loss.backward()
        compression_manager.callbacks.on_before_optimizer_step()
        optimizer.step()
        compression_manager.callbacks.on_after_optimizer_step()
        model.zero_grad()
compression_manager.callbacks.on_train_end()
"""


class Network(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 16, 3)
        self.hidden = nn.Linear(16, 12)
        self.classifier = nn.Linear(12, 4)

    def forward(self, images):
        features = self.body(self.stem(images).relu()).relu().mean(dim=(2, 3))
        return self.classifier(self.hidden(features).relu())


def batches(count=6):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3])) for _ in range(count)]


def loop(model, *confs, steps=6):
    """Train as the documentation of 3.7.1 shows, and return the sparsity of each layer after every step."""
    callbacks = prepare_compression(model, list(confs)).callbacks
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    callbacks.on_train_begin()
    history = []
    for step, (images, labels) in enumerate(batches(steps)):
        callbacks.on_step_begin(step)
        output = model(images)
        loss = callbacks.on_after_compute_loss(images, output, nn.functional.cross_entropy(output, labels))
        loss.backward()
        callbacks.on_before_optimizer_step()
        optimizer.step()
        callbacks.on_after_optimizer_step()
        optimizer.zero_grad()
        history.append({n: round((m.weight == 0).float().mean().item(), 3) for n, m in model.named_children()})
    callbacks.on_train_end()
    return history


@pytest.mark.parametrize(("old", "scope"), [("local", "layer"), ("global", "global")])
def test_an_old_script_runs_after_one_changed_line_and_prunes_what_the_step_prunes(old, scope):
    expected = Network()
    section = PruneSection(granularity="weight", scope=scope, floor=0.02)
    WeightPruner(expected, section, {"stem", "classifier"}).prune(expected, 0.6)
    model = Network()
    names = {
        "model": model,
        "train_dataloader": batches(),
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "SCOPE": old,
    }
    script = OLD_SCRIPT.replace("neural_compressor.training", "hf_compress.adapters.neural_compressor")
    assert script.count("hf_compress") == 1
    exec(script, names)
    for name, weight in prunable_weights(expected, {"stem", "classifier"}).items():
        assert torch.equal(model.get_parameter(name) == 0, weight == 0)
        assert not torch.equal(model.get_parameter(name), weight)
    assert (model.stem.weight != 0).all() and (model.classifier.weight != 0).all()


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0, 0.2, 0.4, 0.6, 0.8]),
        ("cube", [0, 0.0125, 0.1, 0.3375, 0.8]),
        (
            "cos",
            [0, 0.8 * (1 - np.cos(np.pi / 8)), 0.8 * (1 - np.cos(np.pi / 4)), 0.8 * (1 - np.cos(np.pi * 3 / 8)), 0.8],
        ),
        ("exp", [0, 1 - 0.2**0.25, 1 - 0.2**0.5, 1 - 0.2**0.75, 0.8]),
    ],
)
def test_sparsity_grows_along_the_curve(decay, expected):
    options = PrunerOptions(target_sparsity=0.8, sparsity_decay_type=decay, end_step=4)
    assert [scheduled_sparsity(options, done, 4) for done in range(5)] == pytest.approx(expected)


def test_pruning_happens_every_frequency_steps_from_start_to_end():
    config = WeightPruningConfig(
        target_sparsity=0.5,
        pattern="1x1",
        pruning_type="magnitude",
        pruning_scope="local",
        sparsity_decay_type="linear",
        start_step=1,
        end_step=5,
        pruning_frequency=2,
    )
    history = [row["body"] for row in loop(Network(), config, steps=8)]
    assert history == [0, 0, 0, 0.25, 0.25, 0.5, 0.5, 0.5]


def test_a_step_of_several_batches_prunes_once():
    config = WeightPruningConfig(target_sparsity=0.5, pruning_type="magnitude", pattern="1x1", end_step=2)
    callbacks = prepare_compression(Network(), config).callbacks
    for _ in range(3):
        callbacks.on_step_begin(0)
    assert callbacks.pruners[0].done == 1


def test_entries_fill_in_from_the_global_options_and_prune_their_own_layers():
    config = WeightPruningConfig(
        [{"op_names": ["body"], "target_sparsity": 0.25}, {"op_names": ["hidden"], "pattern": "4x1"}],
        target_sparsity=0.5,
        pattern="1x1",
        pruning_type="magnitude",
    )
    assert loop(Network(), config)[-1] == {"stem": 0, "body": 0.25, "hidden": 0.5, "classifier": 0}


@pytest.mark.parametrize(
    ("pattern", "shape"), [("4x1", (-1, 4, 1)), ("channelx1", (1, 16, 1)), ("1xchannel", (16, 1, 8)), ("2:4", None)]
)
def test_patterns_leave_whole_blocks(pattern, shape):
    model = Network()
    config = WeightPruningConfig(
        target_sparsity=0.5, pattern=pattern, pruning_type="magnitude", op_names=["body"], pruning_scope="local"
    )
    assert loop(model, config)[-1]["body"] == 0.5
    zero = (model.body.weight == 0).movedim(1, -1).flatten(1)
    if shape is None:
        assert (zero.reshape(-1, 4).sum(dim=1) == 2).all()
    else:
        blocks = zero.reshape(zero.shape[0] // shape[1], shape[1], -1, shape[2])
        assert (blocks.all(dim=3).all(dim=1) | ~blocks.any(dim=3).any(dim=1)).all()


def test_no_layer_loses_more_than_the_maximum():
    model = Network()
    with torch.no_grad():
        model.body.weight.mul_(1e-3)
    config = WeightPruningConfig(
        target_sparsity=0.6, pattern="1x1", pruning_type="magnitude", max_sparsity_ratio_per_op=0.75
    )
    assert max(loop(model, config)[-1].values()) == 0.75


@pytest.mark.parametrize("kind", ["snip_momentum", "snip", "gradient"])
def test_gradient_types_score_as_published(kind):
    model = Network()
    config = WeightPruningConfig(pruning_type=kind, pattern="1x1", end_step=4, op_names=["hidden"])
    (pruner,) = prepare_compression(model, config).callbacks.pruners
    weight = model.hidden.weight
    expected = torch.zeros_like(weight)
    for images, labels in batches(3):
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        pruner.on_before_optimizer_step()
        score = weight.grad.abs() if kind == "gradient" else (weight.detach() * weight.grad).abs()
        expected = 0.9 * expected + score if kind == "snip_momentum" else score
    assert torch.allclose(pruner.scores["hidden"], expected)


def test_the_default_type_reaches_its_target():
    config = WeightPruningConfig(target_sparsity=0.5, start_step=1, end_step=4, pruning_scope="local")
    assert loop(Network(), config)[-1]["body"] == 0.5


def test_pattern_lock_keeps_the_zeros_there_are():
    model = Network()
    weights = prunable_weights(model, {"classifier"})
    WeightPruner(model, PruneSection(granularity="weight"), {"classifier"}).prune(model, 0.4)
    zeros = {name: weight == 0 for name, weight in weights.items()}
    loop(model, WeightPruningConfig(pruning_type="pattern_lock", pattern="1x1"))
    for name, zero in zeros.items():
        assert torch.equal(model.get_parameter(name) == 0, zero)


def test_a_training_that_ends_early_says_so(caplog):
    config = WeightPruningConfig(target_sparsity=0.5, pruning_type="magnitude", end_step=100)
    with caplog.at_level(logging.WARNING):
        loop(Network(), config)
    assert "before end_step 100" in caplog.text


@pytest.mark.parametrize("kind", ["CE", "KL", "MSE"])
def test_the_distillation_loss_is_that_of_3_7_1(kind):
    student, teacher = Network(), Network(1)
    images, labels = batches(1)[0]
    criterion = KnowledgeDistillationLossConfig(temperature=2.0, loss_types=["CE", kind], loss_weights=[0.3, 0.7])
    callbacks = prepare_compression(student, DistillationConfig(teacher, criterion)).callbacks
    output = student(images)
    own = nn.functional.cross_entropy(output, labels)
    z, t = (tensor.detach().double().numpy() / 2 for tensor in (output, teacher(images)))
    p, q = (np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in (z, t))
    distance = {
        "CE": -(q * np.log(p)).sum(axis=1).mean(),
        "KL": (q * np.log(q / p)).mean(),
        "MSE": ((z - t) ** 2).mean(),
    }[kind]
    expected = 0.3 * own.item() + 0.7 * 4 * distance
    assert callbacks.on_after_compute_loss(images, output, own).item() == pytest.approx(expected, rel=1e-5)
    given = callbacks.on_after_compute_loss(images, output, own, teacher(images))
    assert given.item() == pytest.approx(expected, rel=1e-5)


def test_both_in_one_training_as_documented():
    teacher, student = Network(1), Network()
    history = loop(
        student,
        DistillationConfig(teacher_model=teacher, criterion=KnowledgeDistillationLossConfig()),
        WeightPruningConfig(target_sparsity=0.5, start_step=1, end_step=4, pruning_scope="local"),
    )
    assert history[-1]["body"] == 0.5
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_without_distillation_the_loss_stays_as_it_is():
    callbacks = prepare_compression(Network(), WeightPruningConfig(end_step=1)).callbacks
    loss = torch.tensor(2.0)
    assert callbacks.on_after_compute_loss(None, None, loss) is loss


def prune(**options):
    return lambda: prepare_compression(Network(), WeightPruningConfig(**{"end_step": 1} | options))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (prune(pruning_type="magnitude_progressive"), "'magnitude' prunes whole blocks at once"),
        (prune(pruning_type="retrain_free"), "made for language models"),
        (prune(pruning_type="magnitud"), "did you mean 'magnitude'"),
        (prune(pattern="mha"), "granularity 'channel'"),
        (prune(pattern="4:2"), "N below M"),
        (prune(pattern="2:4", target_sparsity=0.6), "allows a target_sparsity of 0.5 at most"),
        (prune(min_sparsity_ratio_per_op=0.1), "scope 'local' prunes every layer alike"),
        (prune(end_step=0), "needs gradients"),
        (prune(start_step=5), "comes before start_step 5"),
        (prune(sparsity_decay_type="log"), "'WeightPruningConfig.sparsity_decay_type' cannot be 'log'"),
        (prune(pruning_configs=[{"pruning_frequence": 3}]), "did you mean 'pruning_frequency'"),
        (prune(op_names=["nothing"]), "leave no layer to prune; layers: stem, body, hidden"),
        (prune(pattern="5x1"), "leave no layer to prune"),
        (lambda: DistillationConfig(), "'DistillationConfig.teacher_model' cannot be None"),
        (lambda: KnowledgeDistillationLossConfig(loss_types=["CE", "L1"]), "CE, KL or MSE"),
        (lambda: KnowledgeDistillationLossConfig(loss_weights=[0.5, 0.6]), "sum to 1"),
        (lambda: KnowledgeDistillationLossConfig(temperature=0), "above 0"),
        (lambda: IntermediateLayersKnowledgeDistillationLossConfig(layer_mappings=[]), "is not offered"),
        (lambda: SelfKnowledgeDistillationLossConfig(), "is not offered"),
        (lambda: QuantizationAwareTrainingConfig(), "quantizes after training"),
        (lambda: prepare_compression(Network(), object()), "object is no config of prepare_compression"),
        (
            lambda: prepare_compression(Network(), WeightPruningConfig(end_step=1)).save("x"),
            "torch.save its state_dict",
        ),
    ],
)
def test_what_has_no_counterpart_raises_with_the_reason(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_neural_compressor_3_7_1_is_refused_before_it_is_imported(tmp_path):
    package = tmp_path / "neural_compressor"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "training.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import hf_compress.adapters.neural_compressor"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError: Neural Compressor 3.7.1 or older is installed" in result.stderr


@pytest.mark.parametrize("pattern", ["1x1", "4x1", "2:4"])
@pytest.mark.parametrize("pruning_type", ["gradient", "snip_momentum", "magnitude"])
def test_the_old_pruner_zeroes_what_its_schedule_says(pruning_type, pattern):
    """The gradient of a pruned weight may be large: it is gone all the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 40), nn.Linear(40, 20), nn.Linear(20, 3))
    options = PrunerOptions(
        pruning_type=pruning_type, pattern=pattern, target_sparsity=0.4, end_step=4, sparsity_decay_type="linear"
    )
    pruner, optimizer = Pruner(options, model), torch.optim.SGD(model.parameters(), lr=0.1)
    reached = []
    for _ in range(6):
        pruner.on_step_begin()
        reached.append(sparsity(pruner.weights))
        optimizer.zero_grad()
        model(torch.randn(32, 16)).square().sum().backward()
        pruner.on_before_optimizer_step()
        optimizer.step()
        pruner.on_after_optimizer_step()
    assert reached == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4], abs=0.003)
