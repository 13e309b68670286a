"""The file that a card recommends, and the figure that compares the files."""

import pytest
from reports import deployed, report

from hf_compress.report.deployed import commands, recommendation, recommended
from hf_compress.report.figures import on_device
from hf_compress.report.headline import headline
from hf_compress.report.limits import limits


def file(name, accuracy, megabytes, milliseconds, **changes):
    latency = {"batch_1": {"p50_ms": milliseconds, "p95_ms": milliseconds}}
    quality = {"accuracy": accuracy}
    return deployed(
        stage=name, file=name, quality=quality, cost={"bytes": int(1e6 * megabytes)}, latency=latency, **changes
    )


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ([file("slow", 0.9, 1, 2.0), file("fast", 0.9, 2, 1.0)], "fast"),
        ([file("large", 0.9, 2, 1.0), file("small", 0.9, 1, 1.04)], "small"),
        ([file("poor", 0.88, 1, 1.0), file("good", 0.891, 2, 2.0)], "good"),
        ([file("poor", 0.88, 1, 1.0)], None),
        ([file("unknown", 0.9, 1, 1.0) | {"quality": {}}, file("good", 0.9, 2, 2.0)], "good"),
        ([file("floats", 0.9, 1, 1.0, precision="float32") | {"quality": {}}], "floats"),
        ([], None),
    ],
)
def test_the_fastest_file_that_loses_little_is_recommended(files, chosen):
    found = recommended(report(deployed=files))  # the model in PyTorch has 0.9
    assert (found and found["file"]) == chosen


def test_without_labels_the_agreement_with_the_teacher_decides():
    made = report(deployed=[file("good", 0.9, 1, 1.0), file("poor", 0.8, 1, 0.5)])
    for row in [*made["rows"], *made["deployed"]]:
        row["quality"] = {"teacher_agreement": row["quality"]["accuracy"]}
    assert recommended(made)["file"] == "good"
    assert "lose at most 1 point of agreement with the teacher" in recommendation(made)[0]
    assert headline(made).endswith(": good, beside the teacher resnet18 in PyTorch, on A Processor with 2 threads")
    assert "agreement with the teacher" in headline(made)


def test_a_sentence_says_why():
    both = report(deployed=[file("m.onnx", 0.9, 2, 2.0), file("m.int8.onnx", 0.9, 0.5, 0.5)])
    assert recommendation(both) == [
        "For the device, take m.int8.onnx (m.int8.onnx), the fastest of 2 files among those that lose at most "
        "1 point of accuracy: 0.50 MB, and 0.50 ms for one image, for which PyTorch takes 1.00 ms."
    ]
    (sentence,) = recommendation(report(deployed=[file("m", 0.9, 1, 1.0, script="deploy/predict_onnx.py")]))
    assert sentence.endswith("takes 1.00 ms. deploy/predict_onnx.py uses it without PyTorch.")
    (sentence,) = recommendation(report(deployed=[file("m", 0.5, 1, 1.0)]))
    assert sentence == "No deployed file is recommended: none is known to lose at most 1 point of accuracy."
    assert recommendation(report()) == []


def test_what_to_type_is_for_the_recommended_file_that_has_a_script():
    slow = file("m.onnx", 0.9, 2, 2.0, script="deploy/predict_onnx.py")
    fast = file("m.int8.tflite", 0.9, 1, 1.0, runtime="litert", script="deploy/predict_litert_int8.py")
    assert commands(report(deployed=[slow, fast]), None) == (
        "pip install numpy pillow ai-edge-litert\npython deploy/predict_litert_int8.py photo.jpg"
    )
    assert commands(report(deployed=[file("m.pt2", 0.9, 1, 1.0), slow]), "me/small") == (
        "pip install huggingface_hub numpy pillow onnxruntime\n"
        "hf download me/small --include 'deploy/*' --local-dir small\n"
        "python small/deploy/predict_onnx.py photo.jpg"
    )
    assert commands(report(deployed=[file("m.pt2", 0.9, 1, 1.0)]), None) is None


def test_the_figure_shows_both_models_and_every_file():
    figure = on_device(report(deployed=[file("onnx", 0.9, 2, 2.0), file("int8", 0.5, 1, 1.0)]))
    size, latency, accuracy = figure.axes
    assert [label.get_text() for label in size.get_yticklabels()] == [
        "teacher, PyTorch",
        "1 prune, PyTorch",
        "onnx",
        "int8",
    ]
    assert [bar.get_width() for bar in size.patches] == [8.0, 4.0, 2.0, 1.0]
    assert [bar.get_width() for bar in latency.patches] == [8.0, 2.0, 2.0, 1.0]
    assert [bar.get_width() for bar in accuracy.patches] == [1.0, 0.9, 0.9, 0.5]
    assert on_device(report()) is None


def test_noise_and_other_processes_are_said():
    made = report()
    assert not [sentence for sentence in limits(made) if "noisy" in sentence or "Other processes" in sentence]
    made["rows"][0]["latency"]["batch_1"]["noise"] = 0.125
    made["measure"]["other_cores"] = 1.25
    said = " ".join(limits(made))
    assert "medians of five rounds of the same passes lay up to 12% apart" in said
    assert "Other processes took 1.2 cores while latency was measured" in said
    made["deployed"] = [file("onnx", 0.9, 2, 2.0) | {"other_cores": 1.5}]
    assert "Other processes took 1.5 cores while latency was measured" in " ".join(limits(made))


def test_the_recommendation_tells_how_sure_the_ratio_is():
    made = report(deployed=[file("onnx", 0.9, 2, 2.0)])
    (plain,) = recommendation(made)
    row = made["deployed"][0]
    row["eager_latency"] = {"batch_1": {"p50_ms": 9.0, "p95_ms": 9.0}}
    row["latency"]["batch_1"]["speedup"] = {"against": "PyTorch", "ratio": 4.5, "low": 4.12, "high": 4.75}
    (said,) = recommendation(made)
    assert "for which PyTorch takes 9.00 ms, 4.5x faster (4.1 to 4.8)." in said and "faster (" not in plain
