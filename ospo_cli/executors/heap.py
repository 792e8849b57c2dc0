"""The C library's heap: what a policy's work frees is kept for its next tensors, and given back to the system behind it.

glibc gives the top of the heap back when more than a little of it is free, and maps what is large apart. The activations of each
micro-batch then lie in pages that the kernel makes anew, one fault for each 4 KiB: more time than the small operations that write them.
"""

from __future__ import annotations

import ctypes
import os

LARGEST = 1 << 25  # glibc keeps no larger block on its heap
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _NEVER = -1, -3, -1  # of mallopt(3)


def keep_freed() -> None:
    """Have the heap keep what is freed, blocks of up to `LARGEST` bytes among it.

    Nothing where the C library is another, or where its environment says how it is to be.
    """
    library = _glibc()
    if library is not None and not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        library.mallopt(_MMAP_THRESHOLD, LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)


def give_back() -> None:
    """Give what is free to the system."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
