"""A terminal of a hundred columns: what a command leaves on it."""

import os
import pty
import re
import subprocess

PART = re.compile(r"\x1b\[(?P<number>[0-9;?]*)(?P<code>[A-Za-z])|\r|\n|[^\x1b\r\n]")


def on_terminal(command, **environment):
    """Run a command with stderr on a terminal, and return the lines that are there in the end, and stdout."""
    ours, its = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, text=True, env=environment) as process:
        os.close(its)
        shown = b"".join(iter(lambda: read(ours), b""))
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return screen(shown.decode()), out


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def screen(text):
    """Return the lines of a terminal to which `text` was written."""
    lines, row, column = [""], 0, 0
    for part in PART.finditer(text):
        if part["code"] == "A":
            row = max(0, row - int(part["number"] or 1))
        elif part["code"] == "K":
            lines[row] = ""
        elif part["code"]:
            continue
        elif part.group() == "\n":
            row += 1
        elif part.group() == "\r":
            column = 0
        else:
            before, after = lines[row].ljust(column)[:column], lines[row][column + 1 :]
            lines[row], column = before + part.group() + after, column + 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]
