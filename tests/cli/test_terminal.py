"""What is printed where: results on stdout, progress on stderr, bars on terminals alone, and little for --quiet."""

import inspect
import json
import re
import subprocess
import sys

import pytest
from terminal import on_terminal, screen

from hf_compress import cli, save
from hf_compress.cli.output import show
from hf_compress.cli.students import _checkpoints, _sizes
from hf_compress.models.students import build_registered

SPLITS = "{train: 'train[:100]', validation: 'train[100:200]', test: 'train[200:300]'}"
TINY = {"teacher.width": 0.125, "student.width": 0.125, "teacher.finetune.epochs": 2, "data.splits": SPLITS,
        "steps": "[distill: {epochs: 2}]", "measure.repeats": 3, "measure.batch_size": 2}  # fmt: skip
RUN = ["run", "quickstart", *(word for key, value in TINY.items() for word in ("--set", f"{key}={value}"))]
EPOCH = r"  epoch [12] of 2: loss [\d.]+, validation accuracy \d\.\d{4}"


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, arguments)])
    return stop.value.code or 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=32)
    save(built.model, folder, built.processor)
    return folder


def test_results_are_json_on_stdout_and_the_rest_is_on_stderr(tmp_path, capsys):
    assert command(*RUN, "--output", tmp_path / "out", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "out" / "report.json").read_text())
    lines = printed.err.splitlines()
    assert sum(bool(re.fullmatch(EPOCH, line)) for line in lines) == 4
    assert "" not in lines
    assert "\x1b" not in printed.err


@pytest.mark.parametrize("arguments", [
    ["evaluate", "MODEL", "--data", "digits"],
    ["inspect", "MODEL"],
    pytest.param(["export", "MODEL", "--to", "pt2", "--data", "digits", "--output", "OUT"], marks=pytest.mark.long),
    ["students"],
])  # fmt: skip
def test_commands_that_report_print_one_json_value(arguments, model, tmp_path, capsys):
    places = {"MODEL": model, "OUT": tmp_path / "out"}
    assert command(*(places.get(word, word) for word in arguments), "--json") == 0
    assert json.loads(capsys.readouterr().out)


def test_names_that_one_types_are_whole_at_80_columns(monkeypatch, capsys):
    name, checkpoint = "deeplabv3_mobilenet_v2", {"width": 1.0, "id": "google/deeplabv3_mobilenet_v2_1.0_513"}
    row = {
        "name": name,
        "description": "DeepLabV3 on MobileNetV2 (Chen et al., 2017; Sandler et al., 2018)",
        "parameters": {"1": 2_520_000, "0.5": 900_000},
        "checkpoints": [checkpoint | {"parameters": 2.54, "license": "other: from TensorFlow"}],
    }
    monkeypatch.setenv("COLUMNS", "80")
    show(_sizes([row]), _checkpoints([row]))
    lines = capsys.readouterr().out.splitlines()
    assert sum(f" {name} " in line for line in lines) == 2
    assert max(map(len, lines)) <= 80


def test_nothing_to_resume_is_said(tmp_path, capsys):
    assert command("run", "finetune", "--data", "no/such", "--output", tmp_path / "out", "--resume") != 0
    assert f"nothing to go on with in '{tmp_path / 'out'}', so it is begun" in capsys.readouterr().err


def test_every_command_is_quiet_if_asked_and_those_that_report_have_json():
    callbacks = [each.callback for each in cli.app.registered_commands]
    options = {each.__name__: inspect.signature(each).parameters for each in callbacks}
    assert all("quiet" in parameters for parameters in options.values())
    without = {name for name, parameters in options.items() if "json_" not in parameters}
    assert without == {"card", "schema"}  # one line, and JSON in any case


@pytest.mark.parametrize(("arguments", "says"), [
    (["run", "quickstrat"], "did you mean 'quickstart'"),
    (["run", "quickstart", "--set", "steps.prune.amuont=1"], "unknown key 'steps.1.prune.amuont'"),
    (["evaluate", "model", "--splt", "test"], "No such option: --splt"),
    (["export", "model", "--to", "onxn"], "did you mean 'onnx'"),
    (["sensitivity", "model", "--output", "out", "--importance", "l11"], "did you mean 'l1'"),
    (["evaluate", "runs/model"], "no folder 'runs/model'; of a model of the Hub, --data says on which"),
    (["export", "runs/model", "--to", "onnx"], "there is no folder 'runs/model'"),
    (["evaluate", "runs/model/nowhere"], "no model folder 'runs/model/nowhere'"),
    (["run", "distill-mse", "--data", "./nowhere"], "'data.path': there is no folder './nowhere'"),
    (["run", "distill-mse", "--data", "digits", "--teacher", "./nowhere"], "no model folder './nowhere'"),
    (["predict", "./nowhere.onnx", "photo.jpg"], "no file and no folder './nowhere.onnx'"),
    (["predict", "microsoft/resnet-18", "./nowhere.jpg"], "'nowhere.jpg' is no picture"),
    (["benchmark", "a/b", "./nowhere.onnx", "--images", "photo.jpg"], "no file and no folder './nowhere.onnx'"),
    (["benchmark", "a/b", "--images", "./nowhere.jpg"], "'nowhere.jpg' is no picture"),
    (["students", "--budget", "latncy_ms=5"], "did you mean 'latency_ms'"),
    (["students", "--budget", "macs=1e6", "--teacher", "./nowhere"], "no model folder './nowhere'"),
    (["--version"], "hf-compress "),
])  # fmt: skip
def test_what_is_wrong_is_said_before_torch_is_imported(arguments, says):
    script = (
        "import sys\nfrom hf_compress import cli\n"
        "try: cli.main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert says in " ".join((done.stdout + done.stderr).split())
    assert "Assertion" not in done.stderr


@pytest.mark.parametrize(
    ("options", "times"), [([], 1), pytest.param(["--quiet"], 0, marks=pytest.mark.long)], ids=["", "quiet"]
)
def test_what_a_library_warns_of_is_printed_once_and_not_to_the_quiet(options, times):
    script = (
        "import logging, sys\nfrom hf_compress import cli\n"
        "try: cli.main(['schema', *sys.argv[1:]])\nexcept SystemExit: import huggingface_hub.utils\n"
        "logging.getLogger('huggingface_hub.cache').warning('offline')"
    )
    done = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True)
    assert done.stderr == "offline\n" * times


def test_a_terminal_is_read_as_it_looks():
    assert screen("a bar\r\nb\r\x1b[1A\x1b[2Ktext\r\nab\rc") == ["text", "cb"]


@pytest.mark.long
def test_a_terminal_shows_lines_and_no_remains_of_bars(tmp_path):
    start = [sys.executable, "-m", "hf_compress", *RUN, "--output", str(tmp_path / "out")]
    lines, out = on_terminal(start)
    assert [line for line in lines if "epoch " in line and not re.fullmatch(EPOCH, line)] == []
    assert sum(line.startswith("  epoch") for line in lines) == 4
    assert [line for line in lines if "it/s" in line or "%|" in line or "torch/" in line] == []
    assert "" not in "\n".join(lines).rstrip().split("\n")  # what a bar leaves lies below the cursor
    assert out.startswith("Test images")
    quiet, again = on_terminal([*start, "--overwrite", "--quiet"])
    assert quiet == [""]
    assert again.startswith("Test images")
