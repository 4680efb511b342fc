"""Decoded pictures in files that runs and processes share. It can be deleted with the option `cache`.

Each process that adds pictures has a segment of its own: NAME.dat has pixels, one picture after the other,
and NAME.idx a record for each. A record is written after its pixels. So nothing has to be locked, and a
process that is killed leaves at most pixels without a record, or a part of a record.
"""
import errno
import logging
import mmap
import os
import shutil
import struct
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

log = logging.getLogger(__name__)
# Digests of the file (zeros: not known) and of its content; where the pixels are, height (0: in another
# record) and width; checksums of the pixels and of the record.
_RECORD = struct.Struct("<16s16sQIIII")
_PAUSE_S, _SETTLED_S, _GB, _STRIDE = 1.0, 2.0, 10**9, 2**26


def parse_cache(cache: dict) -> dict:
    """The options of a PictureStore, from `{max_gb: 50}`. Raises ValueError for anything else."""
    number = cache.get("max_gb", 50)
    if cache.keys() - {"max_gb"} or type(number) not in (int, float) or not number > 0:
        raise ValueError(f"{cache} is none; {{max_gb: 50}} is one, with a number above 0")
    return cache


def cache_folder() -> Path:
    """Where pictures are kept: `--cache`, which sets SEEDBED_CACHE, or the user's folder for such files."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "seedbed"
    return Path(os.environ.get("SEEDBED_CACHE") or users).expanduser() / "pictures"


class PictureStore:
    """The pictures in files, uint8 `[3, H, W]`, each decoded once.

    A picture is found by the digest of its file's content. The digest is remembered for a path with its
    length, times and inode; not for a file that has just been changed: the next change might have its times.

    Args:
        variant: what the pixels depend on besides the content, such as their size.
        max_gb: it adds nothing to a folder that holds as much, or more than the disk has left.
    """

    def __init__(self, variant: str, max_gb: float = 50):
        from PIL import __version__ as pillow

        self._state = blake2b(repr((2, variant, pillow)).encode()).digest(), max_gb * _GB, cache_folder()
        self.__setstate__(self._state)
        try:  # loader workers would not be heard
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            self._close(error)

    def __getstate__(self) -> tuple:
        return self._state

    def __setstate__(self, state: tuple) -> None:
        self._state = self._variant, self._max_bytes, self.folder = state
        self._digests: dict[bytes, bytes] = {}  # by the digest of a path and its file's state
        self._pictures: dict[bytes, tuple] = {}  # (segment, offset, height, width, checksum), by content
        self._read: dict[str, int] = {}  # how far each idx file has been read
        self._maps: dict[str, torch.Tensor] = {}
        self._next_look, self._segment, self._is_closed = 0.0, None, False
        self._lock = threading.Lock()  # for threads that add pictures

    def picture(self, path, decode: Callable[[str, bytes], torch.Tensor]) -> torch.Tensor:
        """The picture in a file; if it is not there yet, `decode(path, content)`, which is added.

        It may lie in a file, mapped for reading: do not change it.
        """
        key, _ = self._key(path, os.stat(path))
        if (digest := self._known(self._digests, key)) and (found := self._find(digest)) is not None:
            return found
        with open(path, "rb", buffering=0) as file:
            key, is_settled = self._key(path, os.fstat(file.fileno()))
            content = file.read()
        digest = self._digest(content)
        picture = self._find(digest)
        if picture is None:
            picture = decode(path, content)
            self._add(key if is_settled else bytes(16), digest, picture)
        elif is_settled:
            self._add(key, digest, picture[:, :0])
        return picture

    def _digest(self, content: bytes) -> bytes:
        return blake2b(content, digest_size=16, key=self._variant).digest()

    def _key(self, path, state: os.stat_result) -> tuple[bytes, bool]:
        told = os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
        is_settled = time.time() - max(state.st_mtime, state.st_ctime) > _SETTLED_S
        return self._digest(repr(told).encode()), is_settled

    def _known(self, table: dict, key: bytes):
        """What a table has; if nothing, what others have added by now. It does not look all the time."""
        if (found := table.get(key)) is None and time.monotonic() > self._next_look:
            self._look()
            self._next_look, found = time.monotonic() + _PAUSE_S, table.get(key)
        return found

    def _look(self) -> None:
        for file in self.folder.glob("*.idx"):
            first = self._read.get(file.stem, 0)
            try:
                with open(file, "rb") as opened:
                    opened.seek(first)
                    data = opened.read()
            except OSError:  # deleted meanwhile
                continue
            last = len(data) // _RECORD.size * _RECORD.size
            for place in range(0, last, _RECORD.size):
                self._enter(file.stem, data[place:place + _RECORD.size])
            self._read[file.stem] = first + last

    def _enter(self, segment: str, record: bytes) -> None:
        key, digest, offset, height, width, checksum, own = _RECORD.unpack(record)
        if crc32(record[:-4]) != own:
            return
        if any(key):
            self._digests[key] = digest
        if height:
            self._pictures[digest] = segment, offset, height, width, checksum

    def _find(self, digest: bytes) -> torch.Tensor | None:
        """A picture by its content's digest; None if there is none, or if its pixels are damaged."""
        if (place := self._known(self._pictures, digest)) is None:
            return None
        segment, offset, height, width, checksum = place
        pixels = self._mapped(segment, end := offset + 3 * height * width)
        if pixels is not None and (checksum is None or crc32(pixels[offset:end].numpy()) == checksum):
            if checksum is not None:  # once in each process
                self._pictures[digest] = (*place[:-1], None)
            return pixels[offset:end].view(height, width, 3).permute(2, 0, 1)
        self._pictures.pop(digest, None)  # another thread may have been faster
        return None

    def _mapped(self, segment: str, end: int) -> torch.Tensor | None:
        """The pixels of a segment, at least `end`."""
        if (pixels := self._maps.get(segment)) is None or len(pixels) < end:
            try:
                with open(self.folder / f"{segment}.dat", "rb") as file, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch warns of memory that cannot be written
                    pixels = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
                                              dtype=torch.uint8)
            except (OSError, ValueError):  # it is gone, or empty
                return None
            self._maps[segment] = pixels
        return pixels if len(pixels) >= end else None

    def _add(self, key: bytes, digest: bytes, picture: torch.Tensor) -> None:
        """Writes a record and its picture `[3, H, W]`; with H 0 the record alone."""
        if self._is_closed:
            return
        try:
            pixels = picture.permute(1, 2, 0).contiguous().numpy()  # as torch resizes them fastest
            with self._lock:
                if self._segment is None or self._segment.process != os.getpid():  # not in a forked process
                    self._segment = _Segment(self.folder, self._max_bytes)
                self._enter(self._segment.name, self._segment.add(key, digest, pixels))
        except OSError as error:
            self._close(error)

    def _close(self, error: OSError) -> None:
        self._is_closed = True
        log.warning("%s: no more pictures are kept there, and the others are decoded each time: %s",
                    self.folder, error.strerror or error)


class _Segment:
    """Where this process adds pictures. Raises OSError if it cannot, or may not."""

    def __init__(self, folder: Path, max_bytes: float):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.max_bytes = folder, max_bytes
        self.process, self.name = os.getpid(), uuid.uuid4().hex
        self.length, self.left = 0, 0  # bytes that it has, and may add before it looks for room again
        self.pixels = open(folder / f"{self.name}.dat", "xb", buffering=0)
        self.index = open(folder / f"{self.name}.idx", "xb", buffering=0)

    def add(self, key: bytes, digest: bytes, pixels: np.ndarray) -> bytes:
        """The record of pixels `[H, W, 3]` that are now there."""
        self.left -= pixels.nbytes
        if self.left <= 0:
            self.left = self._room()
        record = _RECORD.pack(key, digest, self.length, *pixels.shape[:2], crc32(pixels), 0)[:-4]
        record += struct.pack("<I", crc32(record))
        try:
            _write_all(self.pixels, pixels.reshape(-1))
            _write_all(self.index, record)
        except OSError:
            self.pixels.truncate(self.length)
            raise
        self.length += pixels.nbytes
        return record

    def _room(self) -> int:
        used = sum(file.stat().st_size for file in self.folder.glob("*.dat"))
        free = shutil.disk_usage(self.folder).free
        if used >= min(self.max_bytes, free):
            raise OSError(f"it holds {used / _GB:.3g} GB; max_gb is {self.max_bytes / _GB:.3g}, and the disk "
                          f"has {free / _GB:.3g} GB left. It can be deleted.")
        return int(min(_STRIDE, self.max_bytes - used))


def _write_all(file, data) -> None:
    while len(data):
        data = data[file.write(data):]
