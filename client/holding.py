"""Handles without a session, of which the metadata service is told so that it keeps their files.

Layer: shell.
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.client.handles import Handle
from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError
from luciole.proto import meta_pb2, services


async def register(meta: MetaClient, handles: Sequence[Handle]) -> None:
    """Tells of these, which were not told of before. Raises FsError; then they still are not."""
    if not handles:
        return
    for handle in handles:
        handle.registered = True
    try:
        await meta.ask(services.META_HOLD, meta_pb2.HoldRequest(
            client_id=meta.client_id,
            sessions=[handle.reading_session(meta.client_id) for handle in handles]))
    except FsError:
        for handle in handles:
            handle.registered = False  # the next round tries again
        raise
