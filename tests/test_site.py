"""The site of `make docs`: every page is there, links lead somewhere, references are whole, and nothing is fetched."""

import re
import subprocess
import sys

import pytest
from documented import PAGES, ROOT

import hf_compress
from hf_compress.cli import COMMANDS
from hf_compress.run.recipe import recipe_schema


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make docs` builds; a warning, as of a link or a page that is missing, ends it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def ids(page):
    return set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8")))


@pytest.mark.long
def test_every_page_is_there(site):
    assert "Against others" in (site / "index.html").read_text(encoding="utf-8")
    for page in PAGES:
        if page.name != "README.md":
            place = page.relative_to(ROOT).with_suffix("")
            assert (site / place / "index.html").is_file(), place


@pytest.mark.long
def test_the_references_are_whole(site):
    recipe = (site / "reference" / "recipe" / "index.html").read_text(encoding="utf-8")
    keys = recipe_schema()["properties"].keys() | recipe_schema()["$defs"]["PruneSection"]["properties"].keys()
    assert len(keys) > 30
    assert not [key for key in keys if f"<td><code>{key}</code></td>" not in recipe]
    commands = {f"hf-compress-{command.__name__}" for command in COMMANDS}
    assert commands <= ids(site / "reference" / "commands" / "index.html")
    assert "…" not in (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "hf_compress.adapters.optimum.CompressionTrainer" in ids(site / "reference" / "python" / "index.html")
    names = {f"hf_compress.{name}" for name in hf_compress.__all__ if not name.startswith("_")}
    assert names <= ids(site / "reference" / "python" / "index.html")


@pytest.mark.long
def test_a_reader_fetches_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r'(?:src|srcset)="([^"]+)"|<link[^>]+href="([^"]+)"', page.read_text(encoding="utf-8"))
        assert fetched
        assert not [place for pair in fetched for place in pair if place.startswith(("http", "//"))], page
