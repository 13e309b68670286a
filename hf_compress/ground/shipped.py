"""Files that lie beside the package in its repository, and inside it when installed from a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def shipped_folders(name: str) -> tuple[Path, Path]:
    return PACKAGE / name, PACKAGE.parent / name


def shipped_file(folder: str, name: str) -> Path:
    """Return the path of a shipped file."""
    return next(path for place in shipped_folders(folder) if (path := place / name).is_file())
