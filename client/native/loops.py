"""What a client does in the background: follow the routing, keep its lease.

Layer: shell. Two daemon threads; the routing's waits at the manager, and is cut off at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

from luciole.client.session import Client
from luciole.errors import FsError
from luciole.log import get_logger
from luciole.runtime import drive

log = get_logger("client")
PAUSE_S = 0.5
END_S = 5.0


class Loops:
    """Runs from when it is made until `stop`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        seconds = client.config.session_seconds
        self._threads = [
            threading.Thread(target=self._run, args=arguments, daemon=True, name=arguments[0])
            for arguments in (
                ("luciole routing", client.manager.follow, 0.0),
                ("luciole session", client.keep_session, seconds),
            )
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str, step: Callable[[], Awaitable[object]], seconds: float) -> None:
        async def once() -> object:
            return await step()

        pause = seconds
        while not self._stopping.wait(pause):
            pause = seconds
            try:
                drive(once())
            except FsError as failure:
                if not self._stopping.is_set():
                    log.info("loop_failing", loop=name, error=str(failure))
                pause = PAUSE_S

    def stop(self) -> None:
        """Closes what is open, ends the lease, and returns when both threads have ended."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        drive(self._client.operations.close_all())
        drive(self._client.end_session())
        self._client.connections.close()
        for thread in self._threads:
            thread.join(END_S)
