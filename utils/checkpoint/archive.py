"""The checkpoint file in torch's zip format: written without blocking the interpreter, read without trust."""
import ctypes
import errno
import io
import mmap
import os
import pickle
import re
import shutil
import struct
import sys
import zipfile
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows has no direct writes of this kind
    fcntl = None

_ALIGNMENT = 64  # bytes, as in torch.save, so that tensors can be memory-mapped
_BLOCK = 1 << 22  # bytes
_DIRECT = getattr(os, "O_DIRECT", 0)
_SEAL = b"crc32 %08x"
_NUM_DIGITS = 8
_BARE_END = b"PK\5\6" + bytes(18)  # the last record of a zip without a comment
_LOCAL_HEADER = 30  # bytes, before the record's name and extra field
MAX_DEPTH = 100  # of nested values


class DamagedError(Exception):
    """A file is not a complete, valid archive of tensors and plain values. The message says why."""


class _Pickler(pickle.Pickler):
    """Pickles like torch.save, but does not write the bytes of tensors: `storages` holds them by key."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, protocol=2)
        self.storages: dict[str, torch.UntypedStorage] = {}
        self._keys: dict[int, str] = {}

    def persistent_id(self, thing):
        if not isinstance(thing, torch.UntypedStorage):
            return None
        key = self._keys.setdefault(thing.data_ptr(), str(len(self._keys)))
        self.storages[key] = thing
        return "storage", torch.UntypedStorage, key, "cpu", thing.nbytes()

    def reducer_override(self, thing):
        if type(thing) is not torch.Tensor or thing.layout != torch.strided or thing.is_quantized:
            return NotImplemented
        where = thing.untyped_storage(), thing.storage_offset(), tuple(thing.shape), thing.stride()
        return torch._utils._rebuild_tensor_v3, (*where, False, OrderedDict(), thing.dtype)


def write_archive(content: dict, file: Path) -> None:
    """Writes CPU tensors and plain values so that `torch.load` reads them. Returns when they are on disk.

    torch.save would slow down the training loop with its checksums and the system's cache. Here large
    checksums, copies and writes release the interpreter lock. Checksums cover every byte: the zip's own cover
    the records, a seal in the zip's comment covers everything between them.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(content)
    with closing(_Output(file)) as output:
        with zipfile.ZipFile(output, "w") as archive:
            archive.comment = _SEAL % 0
            _write_record(archive, "archive/data.pkl", pickled.getbuffer())
            _write_record(archive, "archive/version", b"3\n")
            _write_record(archive, "archive/byteorder", sys.byteorder.encode())
            for key, storage in pickler.storages.items():
                memory = ((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
                          if storage.nbytes() else b"")
                _write_record(archive, f"archive/data/{key}", memoryview(memory).cast("B"))
        output.finish()


def require_space(folder: Path, needed: int) -> None:
    """Raises OSError if the disk of `folder` has fewer free bytes than `needed` plus a small margin."""
    needed += 1_000_000
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")


def sync_folder(folder: Path) -> None:
    """Writes the file names in a folder to disk (fsync)."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_record(archive: zipfile.ZipFile, name: str, data) -> None:
    """Like `archive.writestr`, without its copies and with a faster checksum."""
    record, output = zipfile.ZipInfo(name), archive.fp
    record.header_offset, record.CRC = output.tell(), crc32(data)
    record.file_size = record.compress_size = len(data)
    gap = -(record.header_offset + len(record.FileHeader()) + 4) % _ALIGNMENT
    record.extra = struct.pack("<2sH", b"FB", gap) + b"Z" * gap  # "FB" is torch's own mark for padding
    output.write(record.FileHeader())
    output.put(data)
    archive.filelist.append(record)
    archive.start_dir = output.tell()


class _Output:
    """A new file, written in large blocks and past the system's cache where the system supports that.

    Filling the cache can cost more CPU time than everything else, and a new checkpoint is not read soon.
    `write` takes the bytes between the records, which the seal covers; `put` takes the data of records.
    """

    def __init__(self, file: Path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(file, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the file system has no direct writes
                raise
            self._descriptor = os.open(file, flags, 0o666)
        self._memory = mmap.mmap(-1, _BLOCK)  # direct writes need whole pages
        self._block, self._num_waiting, self._num_written = np.frombuffer(self._memory, np.uint8), 0, 0
        self._between: list[bytes] = []

    def tell(self) -> int:
        return self._num_written + self._num_waiting

    def seek(self, offset: int) -> None:
        raise OSError("written from its beginning to its end")

    def flush(self) -> None:
        """ZipFile expects this method; `finish` does the work."""

    def write(self, data: bytes) -> None:
        self._between.append(bytes(data))
        self.put(data)

    def put(self, data) -> None:
        source, done = np.frombuffer(data, np.uint8) if len(data) else (), 0
        while done < len(source):
            if self._num_waiting == _BLOCK:
                self._write_out(_BLOCK - mmap.PAGESIZE)
                self._block[: mmap.PAGESIZE] = self._block[-mmap.PAGESIZE :]  # `finish` changes the end
                self._num_written, self._num_waiting = self.tell() - mmap.PAGESIZE, mmap.PAGESIZE
            count = min(_BLOCK - self._num_waiting, len(source) - done)
            self._block[self._num_waiting : self._num_waiting + count] = source[done : done + count]
            self._num_waiting, done = self._num_waiting + count, done + count

    def finish(self) -> None:
        """Writes the seal and makes sure that everything is on disk."""
        seal = _SEAL % crc32(b"".join(self._between)[:-_NUM_DIGITS])
        self._block[self._num_waiting - _NUM_DIGITS : self._num_waiting] = np.frombuffer(
            seal[-_NUM_DIGITS:], np.uint8)
        self._write_out(-(-self._num_waiting // mmap.PAGESIZE) * mmap.PAGESIZE)
        os.ftruncate(self._descriptor, self.tell())
        os.fsync(self._descriptor)

    def _write_out(self, count: int) -> None:
        waiting = memoryview(self._memory)[:count]
        while waiting:
            try:
                waiting = waiting[os.write(self._descriptor, waiting) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not _leave_direct(self._descriptor):
                    raise

    def close(self) -> None:
        os.close(self._descriptor)


def _leave_direct(descriptor: int) -> bool:
    """Switches to cached writes if direct writes are refused. Returns False if they were cached already."""
    if not _DIRECT or not fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)
    return True


def _checksum_between(records: list[zipfile.ZipInfo], handle: BinaryIO) -> int:
    """Checksum of all bytes outside the records' data, except the last digits, which hold this number."""
    size, done, checksum = handle.seek(0, os.SEEK_END), 0, 0
    for record in sorted(records, key=lambda record: record.header_offset):
        handle.seek(record.header_offset + _LOCAL_HEADER - 4)
        begin = record.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", handle.read(4)))
        handle.seek(done)
        checksum = crc32(handle.read(begin - done), checksum)
        done = begin + record.file_size
    handle.seek(done)
    return crc32(handle.read(size - _NUM_DIGITS - done), checksum)


def read_archive(file: Path):
    """Returns the content of an archive, on the CPU. Also reads files of torch.save, which have no seal.

    All checksums are verified before anything is unpickled. Only tensors and plain values are unpickled, and
    nothing may be larger than the file itself: an untrusted file runs no code and takes no more memory than
    its size. Raises DamagedError, or OSError if the file cannot be read.
    """
    with open(file, "rb"):  # an unreadable file raises OSError: it is not damaged
        pass
    try:
        with zipfile.ZipFile(file) as archive:
            _verify(archive, file)
            num_bytes = sum(record.file_size for record in archive.infolist()
                            if record.filename.endswith("/data.pkl"))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except DamagedError:
        raise
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))  # the rest is torch's advice to trust the file
        raise DamagedError("refused: it holds more than tensors and plain values"
                           f"{f' ({name[1]})' if name else ''}") from error
    except Exception as error:  # random bytes can raise anything in a zip reader or an unpickler
        raise DamagedError(f"not a whole checkpoint: {_first_line(error)}") from error
    _inspect(content, limit=1000 + 10 * num_bytes)
    return content


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _verify(archive: zipfile.ZipFile, file: Path) -> None:
    records = archive.infolist()
    for record in records:
        if (record.compress_type, record.file_size) != (zipfile.ZIP_STORED, record.compress_size):
            raise DamagedError(f"refused: {record.filename!r} in it is compressed, which no checkpoint is")
        if record.external_attr & 0x10 or record.filename.endswith(("/", "constants.pkl")):
            raise DamagedError(f"refused: {record.filename!r} in it is a folder or a program, "
                               "which torch.load would treat otherwise")
    if sum(record.file_size for record in records) > file.stat().st_size:
        raise DamagedError("refused: its records claim more bytes than the file has")
    if damaged := archive.testzip():
        raise DamagedError(f"damaged: the checksum of {damaged!r} does not match")
    with open(file, "rb") as handle:
        handle.seek(-len(_BARE_END), os.SEEK_END)
        end = handle.read()
        if end[:4] == _BARE_END[:4] and end[-2:] == _BARE_END[-2:]:
            return  # torch.save wrote it
        seal = _SEAL % _checksum_between(records, handle)
        if archive.comment != seal or not end.endswith(seal[-_NUM_DIGITS:]):
            raise DamagedError("damaged: the checksum of its headers does not match")


def _inspect(content, limit: int) -> None:
    """Raises DamagedError for content that is small in the file but huge when it is walked through or copied.

    `limit`: the largest number of values. Each value that is not repeated takes at least one byte.
    """
    waiting, num_values = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        num_values += 1
        if num_values > limit or depth > MAX_DEPTH:
            raise DamagedError("refused: it holds values nested within values without end")
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
                raise DamagedError(f"refused: a tensor claims the shape {list(value.shape)} "
                                   "and has far less data")
        elif isinstance(value, dict):
            waiting += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(inner, depth + 1) for inner in value]
