"""A report written by hand, for tests of what is made from reports."""

import copy

LABELS = ["cat", "dog", "owl"]
SELECTION = {
    "budget": {"latency_ms": 5.0},
    "image_size": 32,
    "probe": {"step": "distill", "candidates": 3, "images": 100, "epochs": 1},
    "candidates": [
        {"model": "resnet18", "width": 0.25, "latency_ms": 2.0, "fits": True, "probe_accuracies": [0.6, 0.8]},
        {"model": "resnet18", "width": 0.35, "latency_ms": 3.0, "fits": True, "probe_accuracies": [0.5]},
        {"model": "mobilenet_v2", "width": 0.5, "latency_ms": 4.0, "fits": True, "probe_accuracies": [0.7, 0.75]},
        {
            "model": "resnet50",
            "width": 1.0,
            "latency_ms": 9.0,
            "fits": False,
            "reason": "more than 90% of the budget: 9.00 ms",
        },
    ],
    "winner": {"model": "resnet18", "width": 0.25},
    "hint": None,
}


def report(labels=LABELS, path="photos", **changes):
    """A teacher and a student pruned in two rounds of two epochs, of which the second went too far.

    There are ten test images a class.
    """
    classes = len(labels)

    def classified(wrong):
        """Every class loses `wrong` of its ten images to the next class."""
        confused = [[c, (c + 1) % classes, wrong] for c in range(classes)] if wrong else []
        return {"images": [10] * classes, "correct": [10 - wrong] * classes, "confused": confused}

    def row(stage, accuracy, parameters, milliseconds, wrong, **details):
        return {
            "stage": stage,
            "model": "resnet18",
            "quality": {"accuracy": accuracy, "roc_auc": 0.9},
            "classes": classified(wrong),
            "reliability": {"expected_calibration_error": 0.125, "bins": [[0.55, 0.5, 10], [0.95, 0.75, 20]]},
            "cost": {
                "parameters": parameters,
                "nonzero_parameters": parameters,
                "macs": 10 * parameters,
                "bytes": 4 * parameters,
                "peak_memory_bytes": 5 * parameters,
            },
            "latency": {"batch_1": {"p50_ms": milliseconds, "p95_ms": 2 * milliseconds}},
            **({"details": details} if details else {}),
        }

    def split(images, origin):
        return {
            "images": images * classes,
            "from": origin,
            "corrupt_images_skipped": 0,
            "unlabelled_images": 0,
            "images_by_class": dict.fromkeys(labels, images),
        }

    def pruned(number, gone, accuracy, kept):
        done = {"sparsity": gone / 2, "parameters": gone, "macs": gone}
        epochs = [
            {"epoch": epoch, "training_loss": 0.5 / epoch, "validation_accuracy": value}
            for epoch, value in enumerate((accuracy, accuracy - 0.1), start=1)
        ]
        row = {"round": number, "amount": gone / 2, **done, "epochs": epochs, "best_epoch": 1}
        return row | {"validation_accuracy": accuracy, "kept": kept}

    rounds = [pruned(1, 0.5, 0.9, True), pruned(2, 0.8, 0.4, False)]
    whole = {
        "created": "2026-01-02T03:04:05+00:00",
        "seconds": 1.0,
        "rows": [
            row("teacher", 1.0, 2_000_000, 8.0, 0),
            row("1 prune", 0.9, 1_000_000, 2.0, 1, rounds=rounds, unpruned_validation_accuracy=0.95),
        ],
        "layers": {
            "net.conv1": {"width": [64, 32], "sparsity": [0.0, 0.0]},
            "net.conv2": {"width": [64, 64], "sparsity": [0.0, 0.25]},
        },
        "teacher": {"id": "resnet18", "source": "architecture", "revision": None, "license": None, "base_model": None},
        "student": None,
        "data": {
            "path": path,
            "revision": None,
            "splits": {"train": split(30, "train"), "validation": split(10, "val"), "test": split(10, "split test")},
        },
        "labels": list(labels),
        "seed": 0,
        "measure": {"split": "test", "batch_size": 64, "threads": None, "repeats": 30},
        "environment": {"hf-compress": "0.1.0", "processor": "A Processor", "threads": 2, "accelerator": None},
        "loads_with": "generated_code",
    }
    return copy.deepcopy(whole) | changes


def deployed(**changes):
    """A row as `deploy` leaves it."""
    latency = {"batch_1": {"p50_ms": 1.0, "p95_ms": 1.5}}
    row = {
        "stage": "onnx int8",
        "model": "resnet18",
        "runtime": "onnx",
        "precision": "int8",
        "file": "deploy/model.int8.onnx",
        "quality": {"accuracy": 0.875, "roc_auc": 0.9},
        "cost": {"bytes": 1_000_000},
        "latency": latency,
        "eager_latency": latency,
        "max_difference": {"logits": 0.5},
        "top1_agreement": 0.96875,
        "differences": [
            {"metric": "accuracy", "against": "1 prune", "difference": -0.025, "low": -0.05, "high": 0.01}
        ],
    }
    return row | changes


def with_control(content):
    """Give a report a control that is 12 points worse than the final model."""
    last, control = content["rows"][-1], copy.deepcopy(content["rows"][-1])
    control |= {"stage": "control", "details": {"steps": {"1 prune": control.pop("details")}}}
    del control["latency"]
    control["quality"]["accuracy"] = last["quality"]["accuracy"] - 0.12
    gain = {"metric": "accuracy", "against": "control", "difference": 0.12, "low": 0.03, "high": 0.21}
    last["differences"] = [*last.get("differences", []), gain]
    return content | {"control": control}
