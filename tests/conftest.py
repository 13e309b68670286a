"""Tests never reach the network, and leave no trace in the user's caches."""

import os
import sys
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-compress-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_terminal_summary(terminalreporter):
    """Show the matrix of architectures, where it was tested."""
    tested = sys.modules.get("tests.architectures")
    if tested and tested.EXAMINED:
        terminalreporter.section("architectures")
        for row in tested.EXAMINED:
            terminalreporter.write(row.line())
