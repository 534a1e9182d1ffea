"""Opens the embedded store's directory in the state that counts: after a power loss, a checkpoint.

Layer: kernel. All of it happens under the directory's lock, and nothing is written to a store that
has no checkpoint and no pin yet (`lmdb_checkpoints` says why).
"""

from __future__ import annotations

import lmdb

from luciole.errors import FsError, Kind, require
from luciole.kv.lmdb_checkpoints import Checkpoints, locked
from luciole.kv.lmdb_environment import (
    Environment,
    make_directory,
    open_databases,
    open_handle,
    translated,
)
from luciole.kv.lmdb_saved import restore, saved_in
from luciole.log import get_logger

log = get_logger("kv")


def open_durably(path: str, map_bytes: int, boot_id: str) -> tuple[Environment, Checkpoints]:
    """The store in the directory `path`, which is made if it is missing, and its checkpoints.

    `boot_id` names this start of the machine. Raises FsError CONFIG_INVALID when the directory is
    not a store that this program can write, and DATA_LOST when parts of it are missing.
    """
    require(
        bool(boot_id),
        Kind.CONFIG_INVALID,
        "the kernel does not tell its boot id, so a power loss could not be noticed: mount /proc",
        path,
    )
    make_directory(path)
    try:
        with locked(path):
            saved = saved_in(path)
            restarted = saved is not None and saved.boot_id != boot_id
            if saved is not None and restarted:
                restore(path, saved)
                log.info("restored", path=path, transaction=saved.transaction)
            handle = open_handle(path, map_bytes)
            try:
                return _begin(path, handle, boot_id, restarted=restarted)
            except BaseException:
                handle.close()
                raise
    except OSError as failure:
        raise FsError(
            Kind.CONFIG_INVALID, f"the key-value store cannot be opened: {failure}", path
        ) from failure


def _begin(
    path: str, handle: lmdb.Environment, boot_id: str, *, restarted: bool
) -> tuple[Environment, Checkpoints]:
    """The first checkpoint of this process, before and after what an opening writes."""
    checkpoints = Checkpoints(path, handle, boot_id)
    try:
        if restarted:
            checkpoints.hold()
        else:
            checkpoints.take()
        environment = open_databases(handle, path)
        if restarted:
            with translated(path):
                environment.start_over()
        checkpoints.take()
    except BaseException:
        checkpoints.release()
        raise
    return environment, checkpoints
