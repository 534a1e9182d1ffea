"""`luciole trash`: what was removed, and how it comes back.

Layer: shell. Paths are those of the filesystem itself, so no mount is needed.
"""

from __future__ import annotations

import argparse
import os
import re
from datetime import UTC, datetime

from luciole.client import trash
from luciole.client.trees import Progress, Trees
from luciole.deploy.trees import Answer, Commands, finish, print_answer, with_trees
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, services

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration(text: str) -> int:
    """`7d`, `12h`, `90s` in seconds, for argparse."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 12h, 7d or 4w")
    return int(match[1]) * UNITS[match[2]]


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds `trash`."""
    parser = commands.add_parser(
        "trash", help="keep what is removed for a while", description="A directory with a trash "
        "keeps what is removed below it: files that lose their last name, and trees that "
        "`luciole rm -r` removes. It counts for quotas until it expires.",
        epilog="example: luciole trash enable /home --keep 7d")
    actions = parser.add_subparsers(metavar="COMMAND", required=True)
    enable = actions.add_parser(
        "enable", help="begin to keep", description="Keeps what is removed below a directory "
        "from now on; changes how long it is kept. Its owner and root may.",
        epilog="example: luciole trash enable /home --keep 7d")
    enable.add_argument("--keep", type=duration, required=True, metavar="TIME",
                        help="how long: 90s, 12h, 7d, 4w")
    finish(enable, run_enable)
    finish(actions.add_parser(
        "disable", help="keep nothing more", description="Keeps nothing more; what is there "
        "stays until it expires.", epilog="example: luciole trash disable /home"), run_disable)
    finish(actions.add_parser(
        "status", help="what holds for a directory", description="Tells how long what is removed "
        "from a directory is kept, and in whose trash.",
        epilog="example: luciole trash status /home/ann"), run_status)
    finish(actions.add_parser(
        "list", help="show what is there", description="Shows the items of a directory's trash, "
        "the oldest first: number, time and who removed it, and where it was. Whoever does not "
        "own the directory sees what he owned or removed.",
        epilog="example: luciole trash list /home --json"), run_list)
    back = actions.add_parser(
        "restore", help="bring an item back", description="Brings an item back to where it was. "
        "Whoever owned or removed it, and root, may.",
        epilog="example: luciole trash restore /home 4711 --to /home/ann/saved")
    finish(back, run_restore)
    back.add_argument("item", type=int, metavar="NUMBER", help="from `luciole trash list`")
    back.add_argument("--to", metavar="PATH", help="bring it there instead")
    finish(actions.add_parser(
        "empty", help="remove all for good", description="Removes everything in a directory's "
        "trash for good. Its owner and root may.",
        epilog="example: luciole trash empty /home"), run_empty)


def _set(args: argparse.Namespace, keep_seconds: int) -> Answer:
    async def work(trees: Trees, report: Progress) -> Answer:
        inode = await trees.find(args.path)
        await trees.meta.change(services.META_SET_TRASH, meta_pb2.SetTrashRequest(
            credential=trees.credential, inode_id=inode.inode_id, keep_seconds=keep_seconds))
        return {"path": args.path, "keep_seconds": keep_seconds or None}

    return with_trees(args, work)


def run_enable(args: argparse.Namespace) -> int:
    """Begins to keep."""
    return print_answer(args, _set(args, args.keep),
                        f"what is removed below {args.path} is kept for {args.keep} seconds")


def run_disable(args: argparse.Namespace) -> int:
    """Keeps nothing more."""
    return print_answer(args, _set(args, 0), f"nothing more goes to the trash of {args.path}")


def run_status(args: argparse.Namespace) -> int:
    """Tells the policy."""
    async def work(trees: Trees, report: Progress) -> Answer:
        inode = await trees.find(args.path)
        policy = (await trees.meta.ask(
            services.META_GET_TRASH, meta_pb2.StatRequest(inode_id=inode.inode_id))).trash
        if not policy.inode_id or policy.disabled:
            return {"path": args.path, "trash": None, "keep_seconds": None}
        return {"path": args.path, "trash": await trees.path_of(policy.inode_id),
                "keep_seconds": policy.keep_seconds}

    found = with_trees(args, work)
    return print_answer(
        args, found, f"kept for {found['keep_seconds']} seconds in the trash of {found['trash']}"
        if found["trash"] else "nothing is kept")


async def _shown(trees: Trees, item: meta_pb2.Inode) -> Answer:
    where = await trees.path_of(item.trashed.parent)
    removed = datetime.fromtimestamp(item.trashed.time_ns // 10**9, UTC)
    return {"item": item.inode_id, "removed": removed.isoformat(), "removed_by": item.trashed.uid,
            "type": meta_pb2.FileType.Name(item.type).lower(), "bytes": item.length,
            "path": where.rstrip("/") + "/" + os.fsdecode(item.trashed.name)}


def run_list(args: argparse.Namespace) -> int:
    """Shows the items."""
    async def work(trees: Trees, report: Progress) -> Answer:
        found = await trash.items(trees, await trees.find(args.path))
        return {"items": [await _shown(trees, item) for item in found]}

    answer = with_trees(args, work)
    rows = answer["items"]
    assert isinstance(rows, list)
    return print_answer(args, answer, "\n".join(
        f"{row['item']}  {row['removed']}  by {row['removed_by']}  {row['type']}  {row['path']}"
        for row in rows) or "the trash is empty")


def run_restore(args: argparse.Namespace) -> int:
    """Brings an item back."""
    if args.to is not None and (not args.to.startswith("/") or not args.to.strip("/")):
        raise FsError(Kind.INVALID_ARGUMENT, "--to takes a path from the root of the filesystem",
                      args.to)

    async def work(trees: Trees, report: Progress) -> Answer:
        inode = await trash.restore(trees, await trees.find(args.path), args.item, args.to)
        return {"restored": inode.inode_id}

    return print_answer(args, with_trees(args, work), f"restored {args.item}")


def run_empty(args: argparse.Namespace) -> int:
    """Removes all for good."""
    async def work(trees: Trees, report: Progress) -> Answer:
        return {"removed": await trash.empty(trees, await trees.find(args.path))}

    found = with_trees(args, work)
    return print_answer(args, found, f"removed {found['removed']} items for good")
