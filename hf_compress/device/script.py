"""The script beside a deployed file: it says what is on pictures, without this package."""

import inspect
import json
from pathlib import Path

from hf_compress.device import pictures
from hf_compress.device.answers import ANSWERS
from hf_compress.device.opening import OPENERS

NEEDS = {
    "onnx": ["onnxruntime"],
    "litert": ["ai-edge-litert"],
    "executorch": ["executorch", "torch"],
    "pt2": ["torch"],
}
"""Packages of runtimes that are not called as their package, or need another one."""

HEAD = '''"""Say what is on pictures, by {file}: python {script} IMAGE ...

It needs {needs}, and the JSON file beside the model; it is made by hf-compress, and yours to change.
"""

import json
import sys
'''

MAIN = """

def main(names):
    file = Path(__file__).with_name("{file}")
    described = json.loads(Path(f"{{file}}.json").read_text(encoding="utf-8"))
    run = {opener}(file, threads=1)
    for name in names:
        picture = read_picture(name)
        outputs = dict(zip({outputs}, run(preprocessed(picture, described["preprocessing"]))))
        {say}(name, picture, outputs, described["labels"])


if __name__ == "__main__":
    main(sys.argv[1:])
"""


def script_name(runtime: str, int8: bool) -> str:
    return f"predict_{runtime}{'_int8' * int8}.py"


def packages(runtime: str) -> list[str]:
    """Return what pip installs for a script."""
    return ["numpy", "pillow", *NEEDS.get(runtime, [runtime])]


def script(runtime: str, task: str, file: str, name: str, outputs: list[str]) -> str:
    """Return the text of the script called `name` for a file in the same folder.

    Args:
        runtime: one of `OPENERS`.
        task: one of `ANSWERS`.
        outputs: names of the file's.
    """
    text = Path(pictures.__file__).read_text(encoding="utf-8")
    read, opener = text[text.index("\nimport ") + 1 :], OPENERS[runtime]
    head = HEAD.format(file=file, script=name, needs=", ".join(packages(runtime)))
    says = ANSWERS[task]
    main = MAIN.format(file=file, opener=opener.__name__, outputs=json.dumps(outputs), say=says[-1].__name__)
    return head + "\n\n".join([read, *map(inspect.getsource, (opener, *says))]) + main
