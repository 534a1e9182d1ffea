"""Sessions that ended with nothing to report: the metadata service hears of many at a time.

Layer: shell. Until it has heard, such a session guards a file that nobody uses: cuts by others take
more care than they had to, and a file without names stays a little longer.
"""

from __future__ import annotations

import threading

from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError
from luciole.proto import meta_pb2, services

ENDED_MAX = 64


class Endings:
    """The sessions of one client that ended and were not told. Threads may share it."""

    def __init__(self, meta: MetaClient) -> None:
        self._meta = meta
        self._guard = threading.Lock()
        self._ended: list[meta_pb2.Session] = []

    async def end_later(self, session: meta_pb2.Session) -> None:
        """Ends a session in one transaction with others."""
        with self._guard:
            self._ended.append(session)
            enough = len(self._ended) >= ENDED_MAX
        if enough:
            await self.tell()

    async def tell(self) -> None:
        """Tells which sessions have ended. What cannot be told is tried again later."""
        with self._guard:
            ended, self._ended = self._ended, []
        if not ended:
            return
        try:
            await self._meta.ask(
                services.META_RELEASE, meta_pb2.ReleaseRequest(sessions=ended))
        except FsError:
            with self._guard:
                self._ended = ended + self._ended
