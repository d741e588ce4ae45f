"""A setting of the C allocator that makes eager PyTorch on CPU several times faster."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def tune_allocator() -> bool:
    """Keep freed memory in the process instead of handing it back to the kernel; return whether that took effect.

    By default glibc maps each large tensor afresh and the kernel zeroes its pages one by one, which takes longer than
    most element-wise operations. The price: memory that a tensor has freed stays with the process until it ends, so its
    resident size remains at its peak (10 to 60 % above the default in our measurements).

    It works on Linux with glibc only and cannot be undone. Call it before the first large tensor is made.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
