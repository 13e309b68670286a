"""Distillation losses against numbers computed by hand."""

import math

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import Answer
from hf_compress.losses.logits import kl, mse
from hf_compress.run.recipe import Recipe
from hf_compress.sections.distillation import LOSSES, READERS, LossConfig
from hf_compress.tasks.classification import CLASSIFICATION

STUDENT = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
TEACHER = np.array([[2.0, 1.0, 0.0], [0.5, 0.5, 2.0]])
LABELS = np.array([1, 2])


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def ours(name, labels=LABELS, **options):
    function = LOSSES.get(name).function
    config = LossConfig(loss=name, **options)
    return function(torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(labels), config).item()


def test_mse_is_between_softmax_outputs():
    assert ours("mse") == pytest.approx(((softmax(STUDENT) - softmax(TEACHER)) ** 2).mean())


def test_mse_ce_is_the_weighted_sum():
    distance = ((softmax(STUDENT) - softmax(TEACHER)) ** 2).mean()
    cross_entropy = -np.log(softmax(STUDENT)[[0, 1], LABELS]).mean()
    assert ours("mse_ce", mse_weight=3, ce_weight=0.5) == pytest.approx(3 * distance + 0.5 * cross_entropy)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_batch_mean_times_squared_temperature(temperature):
    student, teacher = softmax(STUDENT / temperature), softmax(TEACHER / temperature)
    expected = (teacher * np.log(teacher / student)).sum(axis=1).mean() * temperature**2
    assert ours("kl", temperature=temperature) == pytest.approx(expected)


def test_kl_ce_is_kl_and_the_weighted_cross_entropy_of_labelled_images():
    divergence = ours("kl", temperature=2.0)
    cross_entropy = -np.log(softmax(STUDENT)[[0, 1], LABELS])
    both = ours("kl_ce", temperature=2.0, ce_weight=0.5)
    assert both == pytest.approx(divergence + 0.5 * cross_entropy.mean())
    half = ours("kl_ce", temperature=2.0, ce_weight=0.5, labels=np.array([-100, 2]))
    assert half == pytest.approx(divergence + 0.5 * cross_entropy[1])
    student, teacher, _ = answers()
    criterion = DistillationCriterion(LossConfig(loss="kl_ce", temperature=2.0), CLASSIFICATION.compare)
    assert criterion(student, teacher, {}).item() == pytest.approx(divergence)


def decoupled(student, teacher, label, alpha, beta, temperature):
    """DKD of one image as eq. 5 to 7 of the paper say it, one class at a time."""
    p = [math.exp(z / temperature) / sum(math.exp(other / temperature) for other in teacher) for z in teacher]
    q = [math.exp(z / temperature) / sum(math.exp(other / temperature) for other in student) for z in student]
    target = p[label] * math.log(p[label] / q[label]) + (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
    rest = 0.0
    for c in range(len(p)):
        if c != label:
            among_p, among_q = p[c] / (1 - p[label]), q[c] / (1 - q[label])
            rest += among_p * math.log(among_p / among_q)
    return (alpha * target + beta * rest) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_weighs_the_target_class_and_the_others_apart(temperature):
    options = {"alpha": 0.7, "beta": 8.0, "temperature": temperature}
    by_hand = [decoupled(*image, **options) for image in zip(STUDENT, TEACHER, LABELS, strict=True)]
    assert ours("dkd", **options) == pytest.approx(sum(by_hand) / 2)
    assert ours("dkd", labels=np.array([-100, 2]), **options) == pytest.approx(by_hand[1])


def test_dkd_weighed_by_the_teacher_is_kl():
    """KD = TCKD + (1 - p of the target) NCKD (eq. 6)."""
    p = softmax(TEACHER)[0, LABELS[0]]
    first = [torch.tensor(logits[:1]) for logits in (STUDENT, TEACHER)]
    options = LossConfig(loss="dkd", beta=1 - p, temperature=1)
    decoupled = LOSSES.get("dkd").function(*first, torch.tensor(LABELS[:1]), options)
    assert decoupled.item() == pytest.approx(kl(*first, None, options).item())


def correlation(first, second):
    mean_first, mean_second = sum(first) / len(first), sum(second) / len(second)
    covariance = sum((a - mean_first) * (b - mean_second) for a, b in zip(first, second, strict=True))
    return covariance / math.sqrt(
        sum((a - mean_first) ** 2 for a in first) * sum((b - mean_second) ** 2 for b in second)
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_one_minus_correlations_over_classes_and_over_images(temperature):
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 4, 3))
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    between_classes = 1 - sum(correlation(p[i], q[i]) for i in range(4)) / 4
    between_images = 1 - sum(correlation(p[:, c], q[:, c]) for c in range(3)) / 3
    config = LossConfig(loss="dist", beta=2.0, gamma=0.5, temperature=temperature)
    loss = LOSSES.get("dist").function(torch.tensor(student), torch.tensor(teacher), None, config)
    assert loss.item() == pytest.approx((2 * between_classes + 0.5 * between_images) * temperature**2)


def test_only_some_losses_need_labels():
    assert [name for name in LOSSES if LOSSES.get(name).needs_labels] == ["ce", "dkd", "mse_ce"]


def test_images_without_label_count_in_the_distance_but_not_in_the_cross_entropy():
    distance = ((softmax(STUDENT) - softmax(TEACHER)) ** 2).mean()
    known = -np.log(softmax(STUDENT)[1, 2])
    assert ours("ce", labels=np.array([-100, 2])) == pytest.approx(known)
    assert ours("mse_ce", labels=np.array([-100, 2])) == pytest.approx(distance + known)
    assert ours("mse_ce", labels=np.array([-100, -100])) == pytest.approx(distance)


@pytest.mark.parametrize("name", ["ce", "mse_ce", "kl_ce", "dkd", "dist", "kl", "mse"])
@pytest.mark.parametrize("labels", [[-100], [1]])
def test_a_batch_of_one_image_with_or_without_label_has_finite_gradients(name, labels):
    student = torch.tensor(STUDENT[:1], requires_grad=True)
    LOSSES.get(name).function(
        student, torch.tensor(TEACHER[:1]), torch.tensor(labels), LossConfig(loss=name)
    ).backward()
    assert student.grad.isfinite().all()


def answers():
    student, teacher = (Answer({"logits": torch.tensor(values)}) for values in (STUDENT, TEACHER))
    return student, teacher, {"labels": torch.tensor(LABELS)}


def test_several_losses_are_a_weighted_sum_and_one_is_a_list_of_one():
    several = LossConfig(losses=[{"loss": "kl", "temperature": 2, "weight": 0.9}, {"loss": "ce", "weight": 0.1}])
    assert DistillationCriterion(several, CLASSIFICATION.compare)(*answers()).item() == pytest.approx(
        0.9 * ours("kl", temperature=2) + 0.1 * ours("ce")
    )
    one = LossConfig(loss="mse_ce", ce_weight=0.5)
    assert DistillationCriterion(one, CLASSIFICATION.compare)(*answers()).item() == ours("mse_ce", ce_weight=0.5)
    with pytest.raises(RunError, match="loss 'ce' needs 'labels' in every batch"):
        DistillationCriterion(several, CLASSIFICATION.compare)(*answers()[:2], {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"losses": [{"loss": "kll"}]}, "'steps.0.distill.losses.0.loss' cannot be 'kll': .*did you mean 'kl'"),
        ({"losses": [{"loss": "kl", "wieght": 1}]}, "'steps.0.distill.losses.0.wieght'.*did you mean 'weight'"),
        ({"losses": [{"weight": 1}]}, "'steps.0.distill.losses.0.loss' is missing"),
        ({"loss": "kl", "losses": [{"loss": "mse"}]}, "loss belongs into an item of losses"),
        ({"loss": "hints"}, "loss 'hints' compares layers: name them"),
        ({"loss": "kl", "layers": {"a": "b"}}, "loss 'kl' compares outputs: leave out layers"),
        ({"loss": "ce", "standardize": True}, "loss 'ce' compares no standardised logits: leave out standardize"),
        ({"losses": [{"loss": "hints", "layers": {"a": "b"}, "standardize": True}]}, "'hints' compares no stand"),
        ({"loss": "attention", "layers": {"a": "b"}, "standardize": True}, "'attention' compares no stand"),
        ({"standardize": True, "losses": [{"loss": "kl"}]}, "standardize belongs into an item of losses"),
    ],
)
def test_mistakes_in_losses_are_one_sentence(options, says):
    with pytest.raises(UsageError, match=says):
        recipe(options)


def test_the_resolved_recipe_says_the_same_again():
    losses = [{"loss": "dkd", "beta": 8.0}, {"loss": "hints", "layers": {"a.1": "b.2"}, "weight": 0.5}]
    for options in ({"losses": losses}, {"loss": "dkd", "beta": 8.0}):
        resolved = recipe(options)
        again = Recipe.from_dict(yaml.safe_load(resolved.to_yaml()))
        assert again == resolved
        assert ("loss" in yaml.safe_load(resolved.to_yaml())["steps"][0]["distill"]) == ("loss" in options)
    recovery = {"epochs": 1, "losses": [{"loss": "ce"}]}
    assert not recipe({}).steps[0]["distill"].labels_only
    step = {"prune": {"recovery": recovery}}
    assert recipe({}, steps=[step]).steps[0]["prune"].recovery.labels_only


def recipe(options, **sections):
    values = {"teacher": "a/b", "student": "resnet18", "data": "digits", "steps": [{"distill": options}]}
    return Recipe.from_dict(values | sections)


def z_scores(logits):
    return (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, keepdims=True)


ON_OUTPUTS = ["mse", "mse_ce", "kl", "kl_ce", "dkd", "dist"]


@pytest.mark.parametrize("name", ON_OUTPUTS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_standardised_losses_compare_z_scores_and_keep_raw_logits_for_the_labels(name, temperature):
    options = {"temperature": temperature, "ce_weight": 0.0}
    options = {option: value for option, value in options.items() if name in READERS[option]}
    config = LossConfig(loss=name, standardize=True, **options)
    plain = config.model_copy(update={"standardize": False})
    function, labels = LOSSES.get(name).function, torch.tensor(LABELS)
    scores = [torch.tensor(z_scores(logits)) for logits in (STUDENT, TEACHER)]
    found = ours(name, standardize=True, **options)
    assert found == pytest.approx(function(*scores, labels, plain).item(), rel=1e-6)
    moved = [torch.tensor(STUDENT * 7 - 3), torch.tensor(TEACHER * 0.2 + 1)]
    assert function(*moved, labels, config).item() == pytest.approx(found, rel=1e-5)
    assert found != pytest.approx(ours(name, **options), rel=1e-2)
    if name.endswith("_ce"):
        cross_entropy = -np.log(softmax(STUDENT)[[0, 1], LABELS]).mean()
        both = ours(name, standardize=True, **options | {"ce_weight": 0.5})
        assert both == pytest.approx(found + 0.5 * cross_entropy)


def test_kl_of_z_scores_is_the_formula_of_the_paper():
    student, teacher = (softmax(z_scores(logits) / 2) for logits in (STUDENT, TEACHER))
    expected = (teacher * np.log(teacher / student)).sum(axis=1).mean() * 4
    assert ours("kl", temperature=2.0, standardize=True) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_a_student_whose_logits_are_all_the_same_learns_from_standardised_ones(name):
    student = torch.zeros(2, 3, requires_grad=True)
    config = LossConfig(loss=name, standardize=True)
    loss = LOSSES.get(name).function(student, torch.tensor(TEACHER).float(), torch.tensor(LABELS), config)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=2, max_size=2), st.floats(-5, 5))
def test_a_shift_of_the_logits_changes_nothing_and_no_distance_is_negative(rows, shift):
    first, second = torch.tensor(rows, dtype=torch.float64).view(2, 1, 4)
    config = LossConfig()
    assert mse(first, first + shift, None, config).item() == pytest.approx(0, abs=1e-12)
    assert kl(first, first + shift, None, config).item() == pytest.approx(0, abs=1e-9)
    assert mse(first, second, None, config) >= 0
    assert kl(first, second, None, config) >= -1e-9


@pytest.mark.parametrize(
    "options", [{"loss": "kl", "standardize": True}, {"losses": [{"loss": "hints", "layers": {"a": "b"}}]}]
)
def test_the_training_of_a_control_reads_labels_alone(options):
    config = LossConfig(epochs=3, batch_size=7, **options)
    assert not config.labels_only
    control = config.on_labels()
    assert control.labels_only
    assert (control.epochs, control.batch_size) == (3, 7)
