"""Keeps the memory that a step frees for the next step: on the CPU, with glibc."""
import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_heap() -> bool:
    """Makes glibc's malloc keep freed memory. Returns whether it does; on other systems nothing changes.

    By default malloc returns the activations of a step to the system or keeps them, depending on their
    position in memory. Returned pages fault again in the next step. Memory once used stays allocated: about 5
    to 20 MB more for a small model. See mallopt(3).
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    as_large_as_it_takes = (libc.mallopt(M_MMAP_THRESHOLD, 2**30)
                            or libc.mallopt(M_MMAP_THRESHOLD, 2**25))  # the limit of old versions: 32 MiB
    return bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and as_large_as_it_takes)
