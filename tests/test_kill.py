"""Whatever moment a run or a search is killed at: resumed, it ends with the same weights and the same report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.parametrize(("kind", "kills"), [("recipe", 25), ("search", 10)])
def test_what_is_killed_many_times_gives_the_same_weights_and_report(kind, kills, tmp_path):
    script = Path(__file__).with_name("kill_chain.py")
    chain = subprocess.run(
        [sys.executable, str(script), kind, str(tmp_path), str(kills), "0"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert chain.returncode == 0, chain.stderr
    found = json.loads(chain.stdout.splitlines()[-1])
    assert found["kills"] == kills
    assert found["runs"] >= 1
    assert found["differing"] == []
    assert found["leftovers"] == []
