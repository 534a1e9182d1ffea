"""What the tests of locks run in processes of their own: `python -m ... NAME KIND PATH [ARGUMENT]`.

KIND is `flock` or `fcntl`.
`count KIND PATH TIMES` adds one to the number in the file so many times, each under the lock, by
buffered reads and writes through one descriptor.
`append KIND PATH TIMES` adds so many lines of 8 bytes with O_APPEND, each under the lock.
`hold KIND PATH` takes the lock, says so, and keeps it until its input ends.
`wait KIND PATH` says that it begins to wait, takes the lock, says so and ends. SIGUSR1 interrupts.
`cross KIND PATH OTHER` takes the lock, says so, and then does as `wait` with the other file.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys


class Interrupted(Exception):  # noqa: N818 - it is no error
    """By SIGUSR1."""


def lock(kind: str, file: int) -> None:
    if kind == "flock":
        fcntl.flock(file, fcntl.LOCK_EX)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX)


def unlock(kind: str, file: int) -> None:
    if kind == "flock":
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        fcntl.lockf(file, fcntl.LOCK_UN)


def count(kind: str, file: int, times: int) -> None:
    for _ in range(times):
        lock(kind, file)
        number = int(os.pread(file, 20, 0) or b"0")
        os.pwrite(file, b"%020d" % (number + 1), 0)
        unlock(kind, file)


def append(kind: str, path: str, times: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(times):
        lock(kind, file)
        os.write(file, b"%07d\n" % number)
        unlock(kind, file)


def hold(kind: str, file: int) -> None:
    lock(kind, file)
    print("held", flush=True)
    sys.stdin.read()


def wait(kind: str, file: int) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGUSR1, interrupt)
    try:
        print("waiting", flush=True)
        lock(kind, file)
    except Interrupted:
        print("interrupted", flush=True)
    except OSError as failure:
        print(f"errno {failure.errno}", flush=True)
    else:
        print("held", flush=True)


def hold_and_wait(kind: str, first: int, second: int) -> None:
    lock(kind, first)
    print("held", flush=True)
    wait(kind, second)


def main() -> None:
    name, kind, path = sys.argv[1:4]
    file = os.open(path, os.O_RDWR)
    if name == "count":
        count(kind, file, int(sys.argv[4]))
    elif name == "append":
        append(kind, path, int(sys.argv[4]))
    elif name == "cross":
        hold_and_wait(kind, file, os.open(sys.argv[4], os.O_RDWR))
    else:
        {"hold": hold, "wait": wait}[name](kind, file)


if __name__ == "__main__":
    main()
