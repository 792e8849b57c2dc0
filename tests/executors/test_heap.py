import json
import os
import subprocess
import sys

import pytest

from ospo_cli.executors import heap

# Sixteen blocks of 8 MiB are taken, written and freed, as a pass takes its activations; each time the faults and what the process holds.
TAKEN = """
import ctypes, json, resource
from pathlib import Path
from ospo_cli.executors import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(8 << 20) for _ in range(16)]
    for block in blocks:
        libc.memset(block, 1, 8 << 20)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
heap.keep_freed()
faults = [taken() for _ in range(3)]
before = held()
heap.give_back()
print(json.dumps({"faults": faults, "before": before, "after": held()}))
"""


def taken(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, check=True, env=kept | environment)
    return json.loads(done.stdout)


@pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")
def test_what_was_freed_is_taken_again_without_a_page_fault_and_given_back_at_the_end():
    found = taken()
    first, *later = found["faults"]
    assert first > 100  # the first time the pages are made
    assert max(later) < first / 100 + 20
    assert found["before"] - found["after"] > 100 << 20


@pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")
def test_what_the_environment_asks_of_the_library_stays():
    first, *later = taken(MALLOC_MMAP_THRESHOLD_="1048576")["faults"]
    assert min(later) > first / 2
