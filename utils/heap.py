"""Keeps the memory that a step frees, for the next step: on the CPU, under glibc."""
import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_heap() -> bool:
    """Tells glibc's malloc to hold on to freed memory. Returns whether that was done; elsewhere nothing is.

    By itself it gives the activations of a step back to the system or keeps them, by the luck of how they lie; given back,
    each of their pages faults again in the next step. What was needed once stays: some 5 to 20 MB more for a small model.
    See mallopt(3).
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    as_large_as_it_takes = libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # old ones: 32 MiB
    return bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and as_large_as_it_takes)
