"""The changes of others, as the metadata services tell them: what caches have to forget.

Layer: shell. `follow` asks a server for what came behind the last answer; the server answers when
there is something, or after a while that nothing was. While answers come the feed is *live*: a
cache may be believed for long, since whatever makes it wrong is told. When they stay out, or when
the servers have forgotten what came since the last one, `lost` is told, and caches live shortly.

The answer to a lock brings the changes up to its grant with it, since whoever holds the lock must
not see what was there before: `take` has forgotten them when it returns.

Invariant: all changes up to `position` are forgotten. The lock guards it and the count.

Source: meta/core/changes.py says what a change is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError
from luciole.proto import meta_pb2, services
from luciole.runtime import Runtime

WAIT_MS = 2000
LIVE_S = 4.0
# Between two answers: changes that come in bursts are told together.
PAUSE_S = 0.005


class ChangeFeed:
    """What others changed. One task or thread follows; any number take, and ask."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, *,
        heard: Callable[[meta_pb2.Change], None], lost: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._meta = meta
        self._heard = heard
        self._lost = lost
        self._guard = threading.Lock()
        self.position = b""  # empty: unknown
        self._live_until = 0.0
        self.count = 0  # of answers with changes: who sees it grow may hold something old

    @property
    def live(self) -> bool:
        """Whether changes are being told."""
        return self._runtime.clock.now() < self._live_until

    async def follow(self) -> None:
        """One answer. Raises FsError."""
        asked_at, after = self._runtime.clock.now(), self.position
        try:
            reply = await self._meta.ask(services.META_WATCH, meta_pb2.WatchRequest(
                client_id=self._meta.client_id, after=after, wait_ms=WAIT_MS))
        except FsError:
            with self._guard:
                self.position = b""
            raise
        self._forget(reply, missed=reply.lost or not after or asked_at >= self._live_until)
        with self._guard:
            self.position = max(self.position, reply.next)
        self._live_until = self._runtime.clock.now() + LIVE_S
        if reply.changes:
            await self._runtime.sleep(PAUSE_S)

    def take(self, after: bytes, behind: meta_pb2.WatchReply | None) -> None:
        """Forgets what others changed up to the grant of a lock.

        Args:
            after: the position that the request for the lock named.
            behind: what the answer told; None: nothing, so everything may be out of date.
        """
        if behind is None or not after:
            self._forget(meta_pb2.WatchReply(), missed=True)
            return
        self._forget(behind, missed=behind.lost)
        with self._guard:
            # Unless the feed broke off meanwhile: what lies between is not known then.
            if self.position >= after:
                self.position = max(self.position, behind.next)

    def _forget(self, told: meta_pb2.WatchReply, *, missed: bool) -> None:
        if told.changes or missed:
            # A request that was begun before may bring something old yet: it compares the count.
            with self._guard:
                self.count += 1
        for change in told.changes:
            self._heard(change)
        if missed:
            self._lost()
