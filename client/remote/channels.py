"""Update channels: what lets a replica know an update that it was sent twice.

Layer: shell. The lock guards all of it; threads may share one `Channels`.
"""

from __future__ import annotations

import threading

from luciole.proto import storage_pb2


class Channels:
    """Update channels: each carries one update at a time, with increasing sequence.

    Threads may share them; the lock guards all of it.
    """

    def __init__(self, client_id: bytes) -> None:
        self._client_id = client_id
        self._guard = threading.Lock()
        self._free: list[int] = []
        self._made = 0
        self._sequence = 0

    def take(self) -> storage_pb2.UpdateTag:
        """A tag for one new update."""
        with self._guard:
            if self._free:
                channel = self._free.pop()
            else:
                self._made += 1
                channel = self._made
            self._sequence += 1
            return storage_pb2.UpdateTag(
                client_id=self._client_id, channel=channel, sequence=self._sequence)

    def give_back(self, tag: storage_pb2.UpdateTag) -> None:
        """The update is over, well or not."""
        with self._guard:
            self._free.append(tag.channel)
