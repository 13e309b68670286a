"""`optimum-cli compress`, installed for real into a fresh virtual environment: from a wheel, editable, and removed."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("optimum.commands.optimum_cli")
pytest.importorskip("hatchling")


class Environment:
    """A virtual environment that borrows the installed packages, but not this one."""

    def __init__(self, folder):
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        (self.site,) = (folder / "lib").glob("python*/site-packages")
        (self.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [self.python, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def pip(self, *arguments):
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "--disable-pip-version-check",
            *arguments,
        ]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    def install(self, *what):
        self.pip("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def optimum_cli(self, *arguments):
        return self.run("-m", "optimum.commands.optimum_cli", *arguments)

    def origin(self):
        return Path(self.run("-c", "import hf_compress; print(hf_compress.__file__)").stdout.strip())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("wheel"))
    environment.install(str(ROOT))
    return environment


def assert_optimum_is_intact(environment):
    assert environment.optimum_cli("--help").returncode == 0
    assert "`optimum` version" in environment.optimum_cli("env").stdout


@pytest.mark.long
def test_a_wheel_adds_the_commands(wheel):
    assert wheel.site in wheel.origin().parents
    assert "compress" in wheel.optimum_cli("--help").stdout
    assert_optimum_is_intact(wheel)
    shown = wheel.optimum_cli("compress", "--help")
    assert shown.returncode == 0
    for command in ("run", "prune", "distill", "evaluate"):
        assert f" {command} " in shown.stdout
    prune = wheel.optimum_cli("compress", "prune", "--help").stdout
    assert "optimum-cli compress prune --model" in prune
    assert all(option in prune for option in ("--importance", "--max-drop", "--target-macs", "--no-iterative"))


def test_the_namespace_stays_one(wheel):
    """An `__init__.py` in any of these folders would hide all of Optimum."""
    shipped = [str(path.relative_to(wheel.site)) for path in wheel.site.glob("optimum/**/*.py")]
    assert shipped == ["optimum/commands/register/register_hf_compress.py"]


def test_errors_and_exit_codes_are_those_of_hf_compress(wheel):
    result = wheel.optimum_cli("compress", "prune", "--model", "x", "--data", "digits", "--amount", "1.5", "out")
    assert result.returncode == 2
    assert result.stderr.startswith("error: 'steps.0.prune.amount' cannot be 1.5")


@pytest.mark.long
def test_a_broken_package_leaves_the_rest_of_optimum_alone(wheel):
    package = wheel.site / "hf_compress" / "__init__.py"
    whole = package.read_text()
    try:
        package.write_text(f"import a_library_that_is_not_there\n{whole}")
        assert_optimum_is_intact(wheel)
        result = wheel.optimum_cli("compress", "--help")
    finally:
        package.write_text(whole)
    assert result.returncode == 1
    assert result.stderr == (
        "error: hf-compress cannot be imported (No module named 'a_library_that_is_not_there'): install it again\n"
    )


def test_an_editable_install_adds_the_commands_and_removing_it_leaves_optimum_intact(tmp_path):
    environment = Environment(tmp_path / "editable")
    environment.install("--editable", str(ROOT))
    assert environment.origin() == ROOT / "hf_compress" / "__init__.py"
    assert environment.optimum_cli("compress", "distill", "--help").returncode == 0
    environment.pip("uninstall", "--quiet", "--yes", "hf-compress")
    assert environment.optimum_cli("compress", "--help").returncode == 2
    assert_optimum_is_intact(environment)


@pytest.mark.long
def test_removing_the_wheel_leaves_optimum_intact(wheel):
    """The last test with this environment."""
    wheel.pip("uninstall", "--quiet", "--yes", "hf-compress")
    assert not [path for path in wheel.site.glob("optimum/**/*") if path.is_file()]
    assert "compress" not in wheel.optimum_cli("--help").stdout
    assert_optimum_is_intact(wheel)
