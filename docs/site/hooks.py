"""What `mkdocs build` makes the site of: pages where they lie in the repository, so that links hold; references."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference import commands, python, recipe

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/*.md", "recipes/*.yaml", "examples/*"),
    *("benchmarks/results/*.md", "benchmarks/results/*.png", "model_cards/*/README.md", "model_cards/*/figures/*.png"),
)
GENERATED = {"reference/recipe.md": recipe, "reference/commands.md": commands, "reference/python.md": python}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's pages in the place of those of `docs_dir`, and write the references."""
    for file in list(files):
        if file.is_documentation_page() or file.src_uri.endswith(".py"):
            files.remove(file)
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    for uri, write in GENERATED.items():
        files.append(File.generated(config, uri, content=write()))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every page of figures behind the benchmarks."""
    results = sorted(ROOT.glob("benchmarks/results/*.md"))
    (benchmarks,) = (part["Benchmarks"] for part in config.nav if "Benchmarks" in part)
    benchmarks += [{_title(path): path.relative_to(ROOT).as_posix()} for path in results]
    return config


def _title(path: Path) -> str:
    return path.stem.replace("_", " ").capitalize()
