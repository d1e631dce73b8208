"""Memory that is freed stays with the process: a training step asks for the same tensors as the one before it.

The C library gives large blocks back to the system when they are freed, and the system hands them out again page by
page, zeroed: on a CPU that can take longer than what is computed in them. The usual remedy for PyTorch on CPUs is
another allocator (jemalloc, tcmalloc); the C library's own settings do the same without one. They hold for a whole
process: our commands make them when they build a model with fast paths for a CPU, a program of your own may.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD = 64 * 2**20  # bytes by which the heap grows at a time


def keep_freed_memory() -> bool:
    """Have this process, and those it forks, keep freed memory for its next use. Calling it again changes nothing.

    Returns:
        False if the C library is not GNU's and nothing has changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD))  # -1: the largest number
    return all(library.mallopt(name, value) == 1 for name, value in settings)
