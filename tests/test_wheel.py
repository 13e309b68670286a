"""What `pip install hf-compress` brings: a wheel is built, looked into, installed and used outside the repository."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from documented import RECIPES, ROOT

SMALL = {
    "teacher.finetune.epochs": 1,
    "steps.distill.epochs": 1,
    "steps.prune.recovery.epochs": 1,
    "measure.repeats": 3,
    "data.splits": "{train: 'train[:200]', validation: 'train[200:250]', test: 'train[250:300]'}",
}


def call(*words, **options):
    """Run a program without a network and without what points at the repository; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    call(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The `bin` of a new environment that holds the wheel, and sees what this one has installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    others = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    (Path(site) / "others.pth").write_text("\n".join(others))  # the .pth files in there are not read, so nor is ROOT
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index")
    call(*install, "--no-deps", "--force-reinstall", wheel)  # over this one, which pip sees as well
    call(*install, f"{wheel}[onnx]")  # whose needs are all met, or pip would look for what is missing
    return folder / "bin"


@pytest.mark.long
def test_the_wheel_holds_what_the_package_needs_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert {"hf_compress/py.typed", "optimum/commands/register/register_hf_compress.py"} <= {*names}
    cards = [path for path in (ROOT / "model_cards").iterdir() if path.is_file()]
    assert cards
    assert {f"hf_compress/{path.relative_to(ROOT)}" for path in [*RECIPES, *cards]} <= {*names}
    rooms = {name.partition("/")[0] for name in names}
    assert {room for room in rooms if not room.endswith(".dist-info")} == {"hf_compress", "optimum"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".safetensors"))]
    assert "Author: The hf-compress developers\n" in metadata
    assert "[most of" not in metadata and "most of timm's;" in " ".join(metadata.split())  # a link to a page
    assert not re.search(r"\]\((?!https?:)", metadata)
    assert "Provides-Extra: onnx\n" in metadata


@pytest.mark.long
def test_the_quickstart_runs_from_the_wheel_in_an_empty_folder(programs, tmp_path):
    place = call(programs / "python", "-c", "import hf_compress; print(hf_compress.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(programs.parent)
    smaller = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    said = call(programs / "hf-compress", "run", "quickstart", *smaller, cwd=tmp_path)
    assert "model, recipe and report: runs/quickstart" in said
    assert (tmp_path / "runs" / "quickstart" / "deploy" / "model.int8.onnx").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
