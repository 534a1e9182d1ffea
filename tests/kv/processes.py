"""What the embedded engine's tests run in processes of their own: `python -m ... NAME ARGUMENTS`.

`increment PATH TIMES` adds one to a counter, by reading and writing, so many times.
`write PATH SEED` commits triples for ever, from four threads, and prints each one's number after
its commit returned.
`churn PATH SEED` does so with durability "process", and prints what it has flushed.
`watch PATH TIMES` prints that it listens for changes, and waits for one, so many times.
`fill PATH BYTES` commits while no file of the process may grow beyond so many bytes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading

from luciole.errors import FsError
from luciole.kv.embedded import EmbeddedStore
from luciole.kv.interface import Transaction
from luciole.runtime import ThreadRuntime, drive

COUNTER = b"counter"
PARTS = 3
WRITERS = 4


def part(number: int, index: int) -> bytes:
    """The key of one of the records that a commit of `write` consists of."""
    return b"part%d/%012d" % (index, number)


def increment(path: str, times: int) -> None:
    store = EmbeddedStore(path, ThreadRuntime())

    async def body(transaction: Transaction) -> None:
        value = int(await transaction.get(COUNTER) or b"0")
        transaction.set(COUNTER, b"%d" % (value + 1))

    for _ in range(times):
        drive(store.run(body))
    store.close()


def write(path: str, seed: int) -> None:
    store = EmbeddedStore(path, ThreadRuntime())

    def work(number: int) -> None:
        while True:
            transaction = store.transaction()
            for index in range(PARTS):
                transaction.set(part(number, index), b"%d" % number * 20)
            drive(transaction.commit())
            # One write call, so that a kill cannot cut the line.
            os.write(1, b"%d\n" % number)
            number += WRITERS

    for thread in range(WRITERS):
        threading.Thread(target=work, args=(seed * 1_000_000 + thread,)).start()


def churn(path: str, seed: int) -> None:
    """Commits as `write` does, replaces what it wrote, and prints what was flushed."""
    store = EmbeddedStore(path, ThreadRuntime(), durability="process", sync_seconds=0.005)

    def work(number: int) -> None:
        while True:
            transaction = store.transaction()
            for index in range(PARTS):
                transaction.set(part(number, index), b"%d" % number * 200)
                transaction.set(b"churned%d" % (number % 50), os.urandom(3000))
            drive(transaction.commit())
            if number % 3 == 0:
                drive(store.flush())
                os.write(1, b"%d\n" % number)
            number += WRITERS

    for thread in range(WRITERS):
        threading.Thread(target=work, args=(seed * 1_000_000 + thread,)).start()


def fill(path: str, size: int) -> None:
    store = EmbeddedStore(path, ThreadRuntime())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for number in range(10_000):
        transaction = store.transaction()
        transaction.set(b"%d" % number, bytes(10_000))
        try:
            drive(transaction.commit())
        except FsError as failure:
            print(number, failure, flush=True)
            return


def watch(path: str, times: int) -> None:
    """Shows that it listens, then waits until it is killed."""
    store = EmbeddedStore(path, ThreadRuntime())
    for _ in range(times):
        drive(store.watch(COUNTER, None, 0.0))
        print("watching", flush=True)
        drive(store.watch(COUNTER, None, 60.0))


if __name__ == "__main__":
    {"increment": increment, "write": write, "churn": churn, "fill": fill, "watch": watch}[
        sys.argv[1]
    ](sys.argv[2], int(sys.argv[3]))
