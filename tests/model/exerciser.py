"""One file on a mount against a bytearray.

By hand: `python -m luciole.tests.model.exerciser DIRECTORY SEED COUNT [BYTES]`, of which the file
has at most as many.

Layer: tests. Any call on ranges of a file, in random order, each compared at once: what is read,
the length, where holes may be. After the idea of fsx, the file system exerciser of Apple and Linux.
A failure prints the last operations.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

LENGTH_MAX = 1_500_000  # several chunks of the test cluster
SMALL_MAX = 10_000  # around what may be inline
DIRECT_BYTES = 65536
KEPT = 40  # operations printed after a failure
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
libc = ctypes.CDLL(None, use_errno=True)


def fallocate(file: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Raises OSError."""
    if libc.fallocate(file, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unless(number: int, call: Callable[..., int], *arguments: object) -> int | None:
    """What a call returns, or None if it fails with that errno."""
    try:
        return call(*arguments)
    except OSError as failure:
        if failure.errno != number:
            raise
        return None


class Exerciser:
    """A file, what it must hold, and everything that can be done to it.

    Args: length_max: so many bytes it has at most.
    """

    def __init__(self, path: Path, seed: int, length_max: int = LENGTH_MAX) -> None:
        self._path = path
        self._length_max = length_max
        self._size_max = length_max // 5
        self._chance = random.Random(seed)
        self._content = bytearray()
        self._log: deque[str] = deque(maxlen=KEPT)
        self._stamp = 0
        path.write_bytes(b"")
        self._file = os.open(path, os.O_RDWR)
        self._steps: list[tuple[Callable[[], str], int]] = [
            (self._write, 20), (self._read, 20), (self._append, 5), (self._truncate, 6),
            (self._punch, 8), (self._zero, 6), (self._allocate, 3), (self._mapped_write, 8),
            (self._mapped_read, 6), (self._copy, 10), (self._seek, 8), (self._reopen, 3),
            (self._sync, 2), (self._drop, 2), (self._rewrite, 1),
        ]
        if length_max > DIRECT_BYTES:
            self._steps.append((self._direct, 4))

    def run(self, count: int) -> None:
        """Does that many operations. Raises AssertionError with what was done last."""
        steps, weights = zip(*self._steps, strict=True)
        for number, step in enumerate(self._chance.choices(steps, weights, k=count)):
            try:
                self._log.append(f"{number}: {step.__name__[1:]}")
                self._log[-1] += f" {step()}"
                size = os.fstat(self._file).st_size
                assert size == len(self._content), f"{size} bytes, not {len(self._content)}"
            except (AssertionError, OSError) as failure:
                raise AssertionError("\n".join([*self._log, repr(failure)])) from failure
        self._check(0, len(self._content) + 1, os.pread(
            self._file, len(self._content) + 1, 0))

    def close(self) -> None:
        """Ends with the file."""
        os.close(self._file)

    # What to do it with.

    def _range(self, end: int | None = None) -> tuple[int, int]:
        """Where and how much: often at borders of pages, blocks and chunks."""
        chance = self._chance
        end = self._length_max if end is None else end
        grain = chance.choice([1, 1, 4096, 65536, 262144])
        offset = chance.randrange(0, max(1, end)) // grain * grain
        size = chance.choice([chance.randint(1, 100), chance.randint(1, self._size_max), grain])
        return offset, max(1, min(size, end - offset))

    def _data(self, size: int) -> bytes:
        self._stamp += 1
        return self._chance.randbytes(64).join(
            [b"%d:" % self._stamp] * (size // 64 + 2))[:size]

    def _put(self, offset: int, data: bytes) -> None:
        self._grow(offset + len(data))
        self._content[offset : offset + len(data)] = data

    def _grow(self, length: int) -> None:
        self._content.extend(bytes(max(0, length - len(self._content))))

    def _check(self, offset: int, size: int, found: bytes) -> None:
        wanted = self._content[offset : offset + size]
        if found != wanted:
            assert len(found) == len(wanted), f"{len(found)} bytes read, not {len(wanted)}"
            first = next(i for i in range(len(found)) if found[i] != wanted[i])
            raise AssertionError(
                f"byte {offset + first}: {found[first : first + 20]!r}, "
                f"not {bytes(wanted[first : first + 20])!r}")

    # What can be done.

    def _write(self) -> str:
        offset, size = self._range()
        data = self._data(size)
        assert os.pwrite(self._file, data, offset) == size
        self._put(offset, data)
        return f"{offset} {size}"

    def _append(self) -> str:
        size = self._range(self._size_max)[1]
        if len(self._content) + size > self._length_max:
            return "no room"
        data = self._data(size)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            for part in (data[: size // 2], data[size // 2 :]):
                assert os.write(file, part) == len(part)
        finally:
            os.close(file)
        self._put(len(self._content), data)
        return f"{size}"

    def _read(self) -> str:
        offset, size = self._range()
        self._check(offset, size, os.pread(self._file, size, offset))
        return f"{offset} {size}"

    def _truncate(self) -> str:
        length = self._range()[0]
        os.ftruncate(self._file, length)
        del self._content[length:]
        self._grow(length)
        return f"{length}"

    def _punch(self) -> str:
        offset, size = self._range()
        fallocate(self._file, PUNCH_HOLE | KEEP_SIZE, offset, size)
        end = min(offset + size, len(self._content))
        if offset < end:
            self._content[offset:end] = bytes(end - offset)
        return f"{offset} {size}"

    def _zero(self) -> str:
        offset, size = self._range()
        keep = self._chance.random() < 0.5
        fallocate(self._file, ZERO_RANGE | (KEEP_SIZE if keep else 0), offset, size)
        if not keep:
            self._grow(offset + size)
        end = min(offset + size, len(self._content))
        if offset < end:
            self._content[offset:end] = bytes(end - offset)
        return f"{offset} {size} {keep}"

    def _allocate(self) -> str:
        offset, size = self._range()
        keep = self._chance.random() < 0.3
        fallocate(self._file, KEEP_SIZE if keep else 0, offset, size)
        if not keep:
            self._grow(offset + size)
        return f"{offset} {size} {keep}"

    def _mapped_write(self) -> str:
        if not self._content:
            return "empty"
        offset, size = self._range(len(self._content))
        data = self._data(size)
        with mmap.mmap(self._file, len(self._content)) as memory:
            memory[offset : offset + size] = data
            if self._chance.random() < 0.5:
                memory.flush()
        self._put(offset, data)
        return f"{offset} {size}"

    def _mapped_read(self) -> str:
        if not self._content:
            return "empty"
        offset, size = self._range(len(self._content))
        with mmap.mmap(self._file, len(self._content), prot=mmap.PROT_READ,
                       flags=self._chance.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE])) as memory:
            self._check(offset, size, memory[offset : offset + size])
        return f"{offset} {size}"

    def _copy(self) -> str:
        source, size = self._range(len(self._content))
        offset = self._range()[0]
        if self._chance.random() < 0.5:
            offset = source % 262144 + offset // 262144 * 262144
        size = min(size, self._length_max - offset)
        if size <= 0 or source >= len(self._content):
            return "nothing"
        if abs(offset - source) < size:
            done = unless(errno.EINVAL, os.copy_file_range, self._file, self._file, size, source,
                          offset)
            assert done is None, "overlapping ranges were copied"
            return f"{source} {offset} {size} overlaps"
        done = os.copy_file_range(self._file, self._file, size, source, offset)
        assert 0 < done <= size, done
        self._put(offset, bytes(self._content[source : source + done]))
        return f"{source} {offset} {size}"

    def _seek(self) -> str:
        """What lies in a hole is zeros, and data ends where a hole begins."""
        offset = self._range()[0]
        os.fsync(self._file)  # the kernel does not write mapped pages back for a seek
        length = len(self._content)
        found = unless(errno.ENXIO, os.lseek, self._file, offset, os.SEEK_DATA)
        data = length if found is None else found
        assert data >= min(offset, length)
        assert not any(self._content[offset:data]), f"data before {data}"
        hole = unless(errno.ENXIO, os.lseek, self._file, offset, os.SEEK_HOLE)
        if offset < length:
            assert hole is not None
            assert offset <= hole <= length
            assert (hole == offset) == (data > offset), f"data at {data}, a hole at {hole}"
        else:
            assert hole is None
        return f"{offset}"

    def _reopen(self) -> str:
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR)
        return ""

    def _rewrite(self) -> str:
        """As an editor saves."""
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_TRUNC)
        self._content.clear()
        return ""

    def _sync(self) -> str:
        os.fsync(self._file)
        return ""

    def _drop(self) -> str:
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        return ""

    def _direct(self) -> str:
        """O_DIRECT past the page cache."""
        file = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 65536) as memory:
                offset = self._range(self._length_max - DIRECT_BYTES)[0] // 4096 * 4096
                if self._chance.random() < 0.5:
                    memory[:] = data = self._data(65536)
                    assert os.pwrite(file, memory, offset) == 65536
                    self._put(offset, data)
                else:
                    count = os.preadv(file, [memory], offset)
                    self._check(offset, 65536, memory[:count])
        finally:
            os.close(file)
        return f"{offset}"


def main() -> None:
    """Runs from the command line."""
    place, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    length_max = int(sys.argv[4]) if len(sys.argv) > 4 else LENGTH_MAX
    exerciser = Exerciser(place / f"exercised-{seed}", seed, length_max)
    exerciser.run(count)
    exerciser.close()
    print(f"seed {seed}: {count} operations")


if __name__ == "__main__":
    main()
