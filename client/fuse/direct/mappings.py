"""Stores into shared mappings, which no request tells of until the kernel writes the page back.

Layer: shell. Linux writes a FUSE file's pages back when it is unmapped or synced, or when its
pages are taken away; so what may be dirty is what some process has mapped now, and /proc says what
one has. A process answers for its own stores: before it gives a lock up, the pages of what it has
mapped are taken away, which makes the stores writes. One whose mappings cannot be read (it is in
another pid namespace, or somebody else's) is taken to have mapped all files that could be.
"""

from __future__ import annotations

from pathlib import Path

from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.messages import Request


def mapped_for_writing(pid: int) -> set[int] | None:
    """Inode numbers, of any filesystem, that a process maps shared and writable (proc_pid_maps(5)).

    None when that cannot be known.
    """
    if not pid:
        return None
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return set()  # it has ended, and its mappings before it
    except OSError:
        return None
    found = set()
    for line in lines:
        _, permissions, _, _, inode_id = line.split(None, 5)[:5]
        if permissions[1:2] == b"w" and permissions[3:4] == b"s":
            found.add(int(inode_id))
    return found


def write_back(context: Context, request: Request) -> None:
    """What the process behind a request has stored into files of this mount has been written.

    Not for a thread of those that serve writes: it waits for them.
    """
    candidates = context.operations.open_files(mappable=True)
    if not candidates:
        return
    mapped = mapped_for_writing(request.pid)
    for inode_id in candidates:
        if mapped is None or inode_id in mapped:
            context.drops.drop(inode_id)
