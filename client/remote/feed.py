"""The changes of others, as the metadata services tell them: what caches have to forget.

Layer: shell. `follow` asks a server for what came behind the last answer; the server answers when
there is something, or after a while that nothing was. While answers come the feed is *live*: a
cache may be believed for long, since whatever makes it wrong is told. When they stay out, or when
the servers have forgotten what came since the last one, `lost` is told, and caches live shortly.

Source: meta/core/changes.py says what a change is.
"""

from __future__ import annotations

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
    """What others changed. One task or thread follows; any number ask `live` and `count`."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, *,
        heard: Callable[[meta_pb2.Change], None], lost: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._meta = meta
        self._heard = heard
        self._lost = lost
        self._after = b""
        self._live_until = 0.0
        self.count = 0  # of answers with changes: who sees it grow may hold something old

    @property
    def live(self) -> bool:
        """Whether changes are being told."""
        return self._runtime.clock.now() < self._live_until

    async def follow(self) -> None:
        """One answer. Raises FsError."""
        asked_at = self._runtime.clock.now()
        try:
            reply = await self._meta.ask(services.META_WATCH, meta_pb2.WatchRequest(
                client_id=self._meta.client_id, after=self._after, wait_ms=WAIT_MS))
        except FsError:
            self._after = b""
            raise
        missed = reply.lost or not self._after or asked_at >= self._live_until
        self._after = reply.next
        if reply.changes or missed:
            self.count += 1
        # A request that was begun before may bring something old yet: it compares the count.
        for change in reply.changes:
            self._heard(change)
        if missed:
            self._lost()
        self._live_until = self._runtime.clock.now() + LIVE_S
        if reply.changes:
            await self._runtime.sleep(PAUSE_S)
