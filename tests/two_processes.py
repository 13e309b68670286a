"""What one of two processes does in a test: `torchrun tests/two_processes.py FOLDER`.

Checks what the processes agree about, then begins the run of `RECIPE`, in which process 1 fails.
"""

import os
import sys
from pathlib import Path

import torch

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}
TRAINING = {"epochs": 2, "learning_rate": 3e-3}
RECOVERY = {**TRAINING, "epochs": 1}
RECIPE = {
    "teacher": {**TINY, "finetune": RECOVERY},
    "student": TINY,
    "data": {
        "path": "digits",
        "augmentation": "light",
        "cutmix": 1.0,
        "splits": {"train": "train[:131]", "validation": "train[300:351]", "test": "train[400:651]"},
    },
    "steps": [
        {"distill": TRAINING},
        {"prune": {"amount": 0.45, "max_drop": 1.0, "recovery": {**RECOVERY, "loss": "mse_ce"}}},
        {"prune": {"granularity": "weight", "amount": 0.5, "iterative": False, "recovery": RECOVERY}},
    ],
    "measure": {"batch_size": 2, "repeats": 3},
}
CHECKED = "all checks passed"
MESSAGE = "this process was told to fail"


def check_predictions() -> None:
    """Every image of a split is answered once, in its order, however the split is divided."""
    from hf_compress.data import load_data
    from hf_compress.models.students import build_model
    from hf_compress.run.recipe import Recipe
    from hf_compress.tasks.classification import CLASSIFICATION
    from hf_compress.training.predicting import predict

    recipe = Recipe.from_dict(RECIPE)
    data = load_data(recipe.data, 0)
    torch.manual_seed(0)
    loaded = build_model(recipe.student, data.label_names, CLASSIFICATION)
    loaded.model.eval()
    whole = torch.stack([image["view"] for image in data.test])
    with torch.no_grad():
        expected = loaded.model(**loaded.processor(list(whole), return_tensors="pt")).logits
    for count in (1, 2, 3, 7, 251):
        found = predict(loaded.model, loaded.processor, data.test.subset(range(count)), batch_size=2)
        torch.testing.assert_close(found.outputs["logits"], expected[:count], rtol=1e-4, atol=1e-5)
        assert found.labels.tolist() == data.test.labels[:count]


def check_units(folder: Path) -> None:
    """The main process's values are everyone's, and what is done alone is done by it."""
    from hf_compress.ground import processes
    from hf_compress.ground.units import Units

    rank, units = processes.rank(), Units(folder, seed=0)
    assert processes.count() == 2
    assert processes.is_main() == (rank == 0)
    assert processes.gathered([rank, -rank]) == [0, 0, 1, -1]
    assert units.value("rank", lambda: processes.rank()) == 0
    called = []
    units.value("alone", lambda: called.append(rank), alone=True)
    assert called == ([0] if rank == 0 else [])
    writers = []
    place = units.once("write", lambda new, _: [writers.append(new), (new / f"{rank}").touch()])
    assert [file.name for file in place.iterdir()] == ["0"]
    assert (writers[0].parent == folder) == (rank == 0)


def check_decisions(folder: Path) -> None:
    """Process 1 ranks weights the other way round, and yet has to the bit what the main one pruned and repaired."""
    from hf_compress import register_importance
    from hf_compress.data import load_data
    from hf_compress.ground import processes
    from hf_compress.models.students import build_model
    from hf_compress.run.recipe import Recipe
    from hf_compress.steps.base import STEPS
    from hf_compress.steps.pruning.config import CRITERIA
    from hf_compress.tasks.classification import CLASSIFICATION
    from hf_compress.training.context import Context

    @register_importance("by_process")
    def by_process(weight, dim, n):
        scores = CRITERIA.get("l1").function(weight, dim, n)
        return scores if processes.rank() == 0 else -scores

    recipe = Recipe.from_dict(RECIPE)
    data = load_data(recipe.data, 0)
    cases = {
        "weights": {"granularity": "weight", "importance": "by_process", "repair": "none"},
        "trained channels": {"importance": "by_process", "recovery": RECOVERY},
        "repaired channels": {"importance": "obs", "scope": "cost", "repair": "least_squares", "calibration": 64},
    }
    for case, options in cases.items():
        torch.manual_seed(0)
        loaded = build_model(recipe.student, data.label_names, CLASSIFICATION)
        options = {"amount": 0.4, "iterative": False, "recovery": {"epochs": 0}} | options
        step = STEPS.get("prune")(STEPS.get("prune").Config(**options))
        context = Context(data, loaded.processor, None, 0, folder / case, log=lambda line: None)
        before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
        pruned = step.apply(loaded.model, context).model
        decided = [(name, tensor.tolist()) for name, tensor in pruned.state_dict().items()]
        assert processes.from_main(decided) == decided
        if case == "weights":
            for name, weight in pruned.named_parameters():
                if weight.dim() > 1 and 0 < (weight == 0).sum() < weight.numel():
                    assert before[name][weight == 0].abs().max() <= before[name][weight != 0].abs().min()


def check_minutes(folder: Path) -> None:
    """To process 1 all seems to take a hundredth of the time, yet it makes the steps that the main one decided."""
    from hf_compress.data import load_data
    from hf_compress.ground import processes
    from hf_compress.models.students import build_model
    from hf_compress.run.recipe import Recipe
    from hf_compress.sections.base import TrainingConfig
    from hf_compress.tasks.classification import CLASSIFICATION
    from hf_compress.training import budget
    from hf_compress.training.context import Context
    from hf_compress.training.fitting import train

    usual = budget.now
    budget.now = lambda: usual() / (100 if processes.rank() else 1)
    recipe = Recipe.from_dict(RECIPE)
    data = load_data(recipe.data, 0)
    loaded = build_model(recipe.student, data.label_names, CLASSIFICATION)
    context = Context(data, loaded.processor, None, 0, folder, log=lambda line: None)
    made = train(loaded.model, context, TrainingConfig(epochs=1000, minutes=0.1))["time_budget"]
    budget.now = usual
    assert made == processes.from_main(made)
    assert made["epochs"] < 1000


def check_ranges(folder: Path) -> None:
    """A training for int8 leaves the same weights everywhere, judged with the ranges of the main process."""
    from hf_compress.data import load_data
    from hf_compress.ground import processes
    from hf_compress.models.students import build_model
    from hf_compress.run.recipe import Recipe
    from hf_compress.steps.base import STEPS
    from hf_compress.steps.quantization import simulation
    from hf_compress.tasks.classification import CLASSIFICATION
    from hf_compress.training.context import Context

    made = []
    usual = simulation.Simulation.__init__
    simulation.Simulation.__init__ = lambda self, *args: made.append(self) or usual(self, *args)
    recipe = Recipe.from_dict(RECIPE)
    data = load_data(recipe.data, 0)
    torch.manual_seed(0)
    loaded = build_model(recipe.student, data.label_names, CLASSIFICATION)
    context = Context(data, loaded.processor, None, 0, folder, log=lambda line: None)
    step = STEPS.get("quantize")(STEPS.get("quantize").Config(epochs=1))
    result = step.apply(loaded.model, context)
    for state in (result.model.state_dict(), made[0].ranges.state_dict()):
        values = [(name, tensor.tolist()) for name, tensor in state.items()]
        assert processes.from_main(values) == values
    assert processes.from_main(result.details) == result.details


def check_stream() -> None:
    """A stream is read once, and divided among the processes."""
    import datasets
    from accelerate import Accelerator

    from hf_compress.data.sources import load_raw
    from hf_compress.data.streaming import ImageStream
    from hf_compress.ground import processes
    from hf_compress.sections.data import DataSection

    digits = load_raw(DataSection(path="digits"), "data").rows["train"].select(range(128))
    rows = digits.to_iterable_dataset(num_shards=3).cast_column("image", datasets.Image(decode=False))
    stream = ImageStream(rows, "image", "label", len(digits))
    pictures = Accelerator(cpu=True).prepare(
        torch.utils.data.DataLoader(stream, 8, collate_fn=lambda items: torch.stack([item["view"] for item in items]))
    )
    own = [picture.numpy().tobytes() for batch in pictures for picture in batch]
    assert len(own) == len(digits) / 2
    assert sorted(processes.gathered(own)) == sorted(item["view"].numpy().tobytes() for item in stream)


def fail_in_process_1() -> None:
    """Begin the run; process 1 raises in the second epoch of the distillation."""
    from hf_compress.cli import main
    from hf_compress.ground import processes
    from hf_compress.ground.errors import RunError
    from hf_compress.training.trainer import DistillationTrainer

    healthy = DistillationTrainer.compute_loss

    def compute_loss(self, model, *args, **kwargs):
        if processes.rank() == 1 and self.teacher is not None and model.training and self.state.epoch > 1:
            raise RunError(MESSAGE)
        return healthy(self, model, *args, **kwargs)

    DistillationTrainer.compute_loss = compute_loss
    main(["run", "recipe.yaml", "--output", "made"])


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    check_predictions()
    check_units(Path("units").absolute())
    check_decisions(Path("decisions").absolute())
    check_minutes(Path("decisions/minutes").absolute())
    check_ranges(Path("decisions/ranges").absolute())
    check_stream()
    print(CHECKED, flush=True)
    fail_in_process_1()
