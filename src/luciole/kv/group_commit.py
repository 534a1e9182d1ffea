"""`GroupCommit`: concurrent commits of one process share one write to the disk.

Layer: kernel. Threads queue; the first becomes the leader, takes what has queued up and writes it
as one batch. When it is done it makes the next in the queue the leader, so that nobody works for
others longer than one batch. Commits that arrive during a write form the next batch: there is no
pause to collect them. Source: "group commit", DeWitt et al., "Implementation Techniques for Main
Memory Database Systems", 1984.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from luciole.errors import FsError, Kind
from luciole.kv.transaction import CommitRequest

WAIT_SECONDS_MAX = 30.0
BATCH_MAX = 256
BATCH_BYTES_MAX = 32 << 20

Outcome = FsError | None
"""Of one commit: None is success."""


class _Ticket:
    """One commit in the queue. The lock is held until there is news for its thread."""

    __slots__ = ("answered", "leads", "news", "outcome", "request")

    def __init__(self, request: CommitRequest) -> None:
        self.request = request
        self.leads = False
        self.answered = False
        self.outcome: Outcome = None
        self.news = threading.Lock()
        self.news.acquire()


class GroupCommit:
    """`write` makes a batch durable and returns the outcome of each request in order."""

    def __init__(
        self,
        write: Callable[[Sequence[CommitRequest]], Sequence[Outcome]],
        wait_seconds: float = WAIT_SECONDS_MAX,
    ) -> None:
        self._write = write
        self._wait_seconds = wait_seconds
        self._guard = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._led = False  # whether a thread is, or is about to be, the leader
        self._closed = False
        self._idle = threading.Condition(self._guard)

    def submit(self, request: CommitRequest) -> None:
        """Returns when the request is durable; raises what `write` says of it.

        Raises FsError UNAVAILABLE when it waited too long and was not tried, and
        KV_MAYBE_COMMITTED when it waited too long for the disk.
        """
        ticket = _Ticket(request)
        with self._guard:
            if self._closed:
                raise FsError(Kind.UNAVAILABLE, "the key-value store is closed")
            self._queue.append(ticket)
            ticket.leads = not self._led
            self._led = True
        if not ticket.leads and not ticket.news.acquire(timeout=self._wait_seconds):
            self._give_up(ticket)
        if ticket.leads:
            self._lead()
        if not ticket.answered:
            raise FsError(Kind.KV_MAYBE_COMMITTED, "the disk did not answer in time")
        if ticket.outcome is not None:
            raise ticket.outcome

    def close(self) -> None:
        """Refuses new commits and waits, for a bounded time, for those under way."""
        with self._guard:
            self._closed = True
            self._idle.wait_for(lambda: not self._led, self._wait_seconds)

    def _lead(self) -> None:
        """Writes one batch, in which the leader's own request is the first."""
        with self._guard:
            batch = [self._queue.popleft()]
            room = BATCH_BYTES_MAX - batch[0].request.size
            while self._queue and len(batch) < BATCH_MAX and self._queue[0].request.size <= room:
                batch.append(self._queue.popleft())
                room -= batch[-1].request.size
        try:
            outcomes = self._write([ticket.request for ticket in batch])
            for ticket, outcome in zip(batch, outcomes, strict=True):
                ticket.outcome, ticket.answered = outcome, True
        finally:
            self._hand_over()
            for ticket in batch[1:]:
                ticket.news.release()

    def _hand_over(self) -> None:
        with self._guard:
            if self._queue:
                self._queue[0].leads = True
                self._queue[0].news.release()
            else:
                self._led = False
                if self._closed:  # nobody else waits for that
                    self._idle.notify_all()

    def _give_up(self, ticket: _Ticket) -> None:
        """Leaves the queue, unless it was made leader or is being written at this moment."""
        with self._guard:
            if not ticket.leads and ticket in self._queue:
                self._queue.remove(ticket)
                ticket.answered = True
                ticket.outcome = FsError(
                    Kind.UNAVAILABLE,
                    f"the disk took no commit for {self._wait_seconds:g} s: nothing was written",
                )
