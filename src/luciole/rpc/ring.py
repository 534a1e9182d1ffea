"""A ring of bytes in shared memory: records from one producer to one consumer, without a lock.

Layer: pure; the memory is an argument. Producer and consumer are mostly in two processes, and
neither trusts the other: each keeps its own position for itself, reads the other's once, checks it,
and copies a record out before anybody looks at it.

The words of a ring's control, each in a cache line of its own, each written by one side only:

    word
      0   tail: bytes that the producer has put, ever
      8   head: bytes that the consumer has taken, ever
     16   sleeps: 1 while the consumer sleeps, or is about to

A record is its length in a word, the bytes, and what fills up the last word. It may go round the
end of the ring; its length never does, as all begin at whole words.

Why this is right. Words are written through a memoryview of native words, which CPython does with
one move of eight bytes, so nobody sees half of one. On x86-64 stores are seen in the order in which
they were made, and loads happen in theirs: who sees the tail sees the record before it, and who
sees the head knows that it was copied (copies as small as a record use no stores that go past the
cache). Each step is a call of the interpreter, so no compiler moves it. What x86-64 does reorder is
a store and a later load of another word, and the doorbell rests on just that:

    producer: store tail, BARRIER, load sleeps; it rings if that is 1
    consumer: store sleeps = 1, BARRIER, load tail; it sleeps if that tells nothing new

Without barriers both loads could come before the other side's store, and the consumer would sleep
over a record (Dekker's algorithm; tests/rpc/test_ring.py tries all orders). Python has no fence.
Taking a `threading.Lock` that nobody else has is an atomic exchange in every CPython: of a POSIX
semaphore (`lock cmpxchg` in glibc's sem_trywait and sem_post; disassembled for CPython 3.11) or, in
newer ones, of its own word. An instruction with a lock prefix is a full barrier on x86-64. Other
processors order less, and other interpreters may write otherwise, so `SOUND` is false there, and
nobody is offered a ring.

Should all this be wrong once, it costs a moment: whoever waits looks again and rings again
(bell.py).
"""

from __future__ import annotations

import platform
import sys
import threading

from luciole.rpc.frame import corrupt

SOUND = (
    platform.machine() in {"x86_64", "AMD64"} and sys.maxsize > 2**32
    and sys.implementation.name == "cpython"
)  # fmt: skip
WORD = 8
TAIL, HEAD, SLEEPS = 0, 8, 16
CONTROL_BYTES = 256
RING_BYTES = 64 * 1024
RECORD_BYTES_MAX = 16 * 1024
PAIR_BYTES = 4096 + 2 * RING_BYTES  # two rings: their controls share the first page


class Words:
    """One ring's memory: its control and its bytes, each of these also as words."""

    __slots__ = ("bytes", "control", "words")

    def __init__(self, control: memoryview, data: memoryview) -> None:
        self.control = control.cast("Q")
        self.bytes = data
        self.words = data.cast("Q")


def pair(memory: memoryview) -> tuple[Words, Words]:
    """The rings for requests and for replies in memory of PAIR_BYTES, zeros at first."""
    first, second = (
        Words(memory[at : at + CONTROL_BYTES], memory[begin : begin + RING_BYTES])
        for at, begin in ((0, 4096), (CONTROL_BYTES, 4096 + RING_BYTES))
    )
    return first, second


class _Barrier:
    """A full memory barrier; each side has its own, so that no thread waits for another in it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        self._lock.acquire()
        self._lock.release()


class Producer:
    """Puts records. One thread at a time."""

    __slots__ = ("_barrier", "_ring", "_size", "_tail")

    def __init__(self, ring: Words) -> None:
        self._ring = ring
        self._size = len(ring.bytes)
        self._tail = 0
        self._barrier = _Barrier()

    def put(self, record: bytes) -> bool:
        """Puts a record of at least one byte; False: there is no room now, or never for this one.

        Raises FsError CORRUPT_FRAME if the consumer's position is none.
        """
        length = len(record)
        if not 0 < length <= RECORD_BYTES_MAX:
            return False
        taken = WORD + length + -length % WORD
        tail = self._tail
        if taken > self._size - self._waiting():
            return False
        ring = self._ring
        at = tail % self._size
        ring.words[at // WORD] = length
        at = (at + WORD) % self._size
        first = self._size - at
        if length <= first:
            ring.bytes[at : at + length] = record
        else:
            ring.bytes[at:] = record[:first]
            ring.bytes[: length - first] = record[first:]
        self._tail = tail + taken
        ring.control[TAIL] = self._tail
        return True

    def must_ring(self) -> bool:
        """Whether the consumer is to be woken for what was put."""
        self._barrier()
        return bool(self._ring.control[SLEEPS])

    def has_waiting(self) -> bool:
        """Whether the consumer has not taken all yet. Raises FsError CORRUPT_FRAME."""
        return self._waiting() > 0

    def _waiting(self) -> int:
        waiting: int = self._tail - self._ring.control[HEAD]
        if not 0 <= waiting <= self._size:
            raise corrupt(f"{waiting} bytes are said to wait in a ring of {self._size}")
        return waiting


class Consumer:
    """Takes records. One thread at a time."""

    __slots__ = ("_barrier", "_head", "_ring", "_size")

    def __init__(self, ring: Words) -> None:
        self._ring = ring
        self._size = len(ring.bytes)
        self._head = 0
        self._barrier = _Barrier()

    def take(self) -> bytes | None:
        """The next record, copied; None: there is none. Raises FsError CORRUPT_FRAME."""
        ring, head = self._ring, self._head
        there = ring.control[TAIL] - head
        if not there:
            return None
        if not WORD < there <= self._size or there % WORD:
            raise corrupt(f"{there} bytes are said to lie in a ring of {self._size}")
        at = head % self._size
        length = ring.words[at // WORD]
        taken = WORD + length + -length % WORD
        if not 0 < length <= RECORD_BYTES_MAX or taken > there:
            raise corrupt(f"a record of {length} bytes in a ring that holds {there}")
        at = (at + WORD) % self._size
        first = self._size - at
        if length <= first:
            record = ring.bytes[at : at + length].tobytes()
        else:
            record = b"".join((ring.bytes[at:], ring.bytes[: length - first]))
        self._head = ring.control[HEAD] = head + taken
        return record

    def may_sleep(self) -> bool:
        """Says that it sleeps; False: something is there. Either way `woke` is to follow."""
        self._ring.control[SLEEPS] = 1
        self._barrier()
        return bool(self._ring.control[TAIL] == self._head)

    def woke(self) -> None:
        """It looks at the ring again by itself."""
        self._ring.control[SLEEPS] = 0
