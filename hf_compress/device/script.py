"""The script beside a deployed file: it classifies pictures without this package."""

import inspect
from pathlib import Path

from hf_compress.device import pictures
from hf_compress.device.opening import OPENERS

NEEDS = {"onnx": "onnxruntime", "litert": "ai-edge-litert", "pt2": "torch"}  # what is not called as its runtime

HEAD = '''"""Say what is on pictures, by {file}: python {script} IMAGE ...

It needs numpy, pillow and {needs}, and the JSON file beside the model; it is made by hf-compress, and yours to change.
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
        logits = run(preprocessed(read_picture(name), described["preprocessing"]))[{output}][0]
        shares = np.exp(logits - logits.max())
        best = int(logits.argmax())
        print(f"{{name}}\\t{{described['labels'][best]}}\\t{{shares[best] / shares.sum():.4f}}")


if __name__ == "__main__":
    main(sys.argv[1:])
"""


def script_name(runtime: str, int8: bool) -> str:
    return f"predict_{runtime}{'_int8' * int8}.py"


def script(runtime: str, file: str, name: str, output: int) -> str:
    """Return the text of the script called `name` for a file in the same folder.

    Args:
        runtime: one of `OPENERS`.
        output: which of the file's outputs the logits are.
    """
    text = Path(pictures.__file__).read_text(encoding="utf-8")
    read, opener = text[text.index("\nimport ") + 1 :], OPENERS[runtime]
    head = HEAD.format(file=file, script=name, needs=NEEDS.get(runtime, runtime))
    main = MAIN.format(file=file, opener=opener.__name__, output=output)
    return f"{head}{read}\n\n{inspect.getsource(opener)}{main}"
