"""The fence of a service that is not a member yet: closed until it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from luciole.errors import FsError, Kind
from luciole.storage.ports import Fence


class LateFence:
    """Stands for the membership, which needs the ports, which need the service."""

    def __init__(self) -> None:
        self.member: Fence | None = None

    def check(self) -> None:
        """Raises FsError NOT_SERVING until a member is there, then as the member says."""
        if self.member is None:
            raise FsError(Kind.NOT_SERVING, "this node is still starting")
        self.member.check()

    def guards(
        self, step: Callable[[], Awaitable[object]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """The step, skipped behind the fence: who may not answer tells others nothing either."""
        async def run() -> None:
            try:
                self.check()
            except FsError:
                return
            await step()

        return run
