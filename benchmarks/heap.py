"""The heap of this process as glibc counts it: what is in use, and what is free but kept.

Resident memory that grows while the heap in use does not is the allocator's, not a leak.
"""

import ctypes
import math


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h: bytes, over all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def heap() -> tuple[float, float]:
    """MiB in use (blocks that have mappings of their own included), and MiB free but kept.

    What is kept need not be resident. Both are NaN where there is no glibc of 2.33 or later.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):  # another system or library
        return math.nan, math.nan
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return (found.uordblks + found.hblkhd) / 2**20, found.fordblks / 2**20
