"""Memory that was freed stays with the process while it trains, and goes back afterwards."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from hf_compress.ground.memory import freed_memory_kept

def fetched(rounds=10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        held = [bytearray(24 * 2**20) for _ in range(8)]
        del held
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / rounds

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

fetched(2)
outside = fetched()
with freed_memory_kept():
    fetched(2)
    inside, kept = fetched(), resident()
print(outside / 2**20, inside / 2**20, kept / 2**20, resident() / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides by itself")
def test_freed_memory_is_kept_in_between_only():
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    outside, inside, kept, afterwards = map(float, output.split())
    assert outside > 150
    assert inside < 5
    assert kept - afterwards > 150
