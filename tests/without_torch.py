"""A script beside a deployed file, run where there is neither torch nor this package."""

import subprocess
import sys

BLOCKED = ("torch", "torchvision", "transformers", "hf_compress", "wrapt")
ALONE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def said_alone(script, images):
    """Return what a script says of images: the columns of each line."""
    command = [sys.executable, "-c", ALONE, str(script), *map(str, images)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in result.stdout.splitlines()]
