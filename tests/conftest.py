"""Tests never reach the network, and leave no trace in the user's caches."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

LONGEST = {
    "test_architectures.py",
    "test_compress.py",
    "test_kill.py",
    "test_optimum_cli.py",
    "test_processes.py",
    "test_select.py",
}
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is faster than many threads
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background, and all they start, ignore it
HUB_CACHE = tempfile.TemporaryDirectory(prefix="hf-compress-tests-", ignore_cleanup_errors=True)
os.environ["HF_HOME"] = HUB_CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)  # pytest --hypothesis-profile=thorough
settings.load_profile("quick")


@pytest.fixture
def unlabelled_photos(tmp_path):
    """A folder of 60 pictures of noise without classes."""
    import torch
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        pixels = torch.randint(0, 256, (16, 16), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(photos / f"{number}.png")
    return str(photos)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that of several workers none is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_terminal_summary(terminalreporter):
    """Show the matrix of architectures, where it was tested."""
    tested = any("test_the_page_is_current" in report.nodeid for report in terminalreporter.getreports("passed"))
    if tested:
        terminalreporter.section("architectures")
        terminalreporter.write(PAGE.read_text(encoding="utf-8"))
