"""Whatever moment a run is killed at: resumed, it ends with the same weights and the same report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 25


@pytest.mark.long
def test_a_run_that_is_killed_many_times_gives_the_same_weights_and_report(tmp_path):
    script = Path(__file__).with_name("kill_chain.py")
    chain = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS), "0"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert chain.returncode == 0, chain.stderr
    found = json.loads(chain.stdout.splitlines()[-1])
    assert found["kills"] == KILLS
    assert found["runs"] >= 1
    assert found["differing"] == []
    assert found["leftovers"] == []
