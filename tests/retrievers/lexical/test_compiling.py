"""A machine's first ranking says why it takes long; later ones say nothing."""

import subprocess
import sys

SCRIPT = """
import numpy as np
from ospo_cli.retrievers.lexical import compiling
compiling.say_when_compiling(), compiling.say_when_compiling()
from a_loop import add
print(add(1), add(1), add(1.0))
"""
LOOP = "from numba import njit\n\n@njit(cache=True)\ndef add(number):\n    return number + 1\n"


def test_compiling_is_said_once_and_what_is_in_the_cache_is_not_compiled(tmp_path):
    (tmp_path / "a_loop.py").write_text(LOOP)
    first, second = (
        subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert first.stdout == second.stdout == "2 2 2.0\n"
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("index: numba compiles the loops")
    assert second.stderr == ""
