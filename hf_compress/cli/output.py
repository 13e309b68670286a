"""Results on stdout, as text and tables or as JSON; what is said while work goes on is in `ground/progress.py`."""

import json
import os
import sys
from typing import Any

from rich.console import Console

from hf_compress.ground import processes

WIDE = 1000  # where nobody looks at the edge of a screen, no cell is cut


def show(*results: Any) -> None:
    """Print lines and tables; of several processes the main one does."""
    looked_at = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if looked_at else WIDE, quiet=processes.rank() > 0)
    for result in results:
        console.print(result, markup=False, highlight=False, soft_wrap=isinstance(result, str))


def show_json(values: Any) -> None:
    """Print one JSON value, and nothing else."""
    show(json.dumps(values, indent=2))
