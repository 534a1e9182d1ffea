"""`luciole rm`, `luciole du` and `luciole quota`: what is done with whole directories.

Layer: shell. Paths are those of the filesystem itself, so no mount is needed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Coroutine
from typing import Any

from luciole.client.trees import Progress, Trees, own_credential
from luciole.deploy.connect import add_cluster_options, client_config, open_client
from luciole.deploy.output import answers, print_json, progress
from luciole.deploy.status import size_text
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, services
from luciole.runtime import ThreadRuntime, drive

Commands = argparse._SubParsersAction
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
LOOK_AGAIN_S = 0.5
Answer = dict[str, object]
Work = Callable[[Trees, Progress], Coroutine[Any, Any, Answer]]


def amount(text: str) -> int:
    """`10G`, `500k` or a plain number; units are powers of 1024. For argparse."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)(?:i?b)?", text.lower())
    if not match or int(match[1]) * UNITS[match[2]] >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount such as 500, 20M or 10G")
    return int(match[1]) * UNITS[match[2]]


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the three."""
    remove = commands.add_parser(
        "rm", help="remove a directory with all that is below it", description="Removes a "
        "directory in one transaction, however large it is; the servers free its space in the "
        "background. You must own the directory, or be root, and be allowed to write the "
        "directory that it is in; what is below goes whoever owns it. Files that are open stay "
        "until they are closed.", epilog="example: luciole rm -r /datasets/old --dir ./cluster")
    remove.add_argument("-r", "--recursive", action="store_true", required=True,
                        help="must be given: everything below goes too")
    finish(remove, run_rm)
    usage = commands.add_parser(
        "du", help="bytes and inodes of a directory", description="Tells the lengths of all "
        "files below a path, together, and their number. A directory with a quota answers at "
        "once (less what is below other quotas inside it); others are read through.",
        epilog="example: luciole du /datasets --dir ./cluster")
    finish(usage, run_du)
    quota = commands.add_parser(
        "quota", help="limits for directories", description="Limits the bytes and inodes of a "
        "directory, and keeps its usage exact. An inode counts for the nearest directory with a "
        "quota at or above it.", epilog="example: luciole quota set /home/ann --bytes 10G")
    actions = quota.add_subparsers(metavar="COMMAND", required=True)
    change = actions.add_parser(
        "set", help="set limits", description="Sets the limits of a directory and begins to "
        "account for it; 0 is no limit. What is below already is counted in the background.",
        epilog="example: luciole quota set /home/ann --bytes 10G --inodes 1M")
    change.add_argument("--bytes", type=amount, metavar="N", help="sum of the lengths: 500, 10G")
    change.add_argument("--inodes", type=amount, metavar="N", help="files, directories and all")
    change.add_argument("--wait", action="store_true", help="until everything is counted")
    finish(change, run_set)
    finish(actions.add_parser(
        "get", help="show one", description="Shows the quota that a path counts for.",
        epilog="example: luciole quota get /home/ann --json"), run_get)
    listing = actions.add_parser(
        "list", help="show all", description="Shows all quotas.",
        epilog="example: luciole quota list --json")
    finish(listing, run_list, path=False)
    finish(actions.add_parser(
        "rm", help="end one", description="Lifts the limits of a directory and ends its "
        "accounting; what is below counts for the next quota above it, if any.",
        epilog="example: luciole quota rm /home/ann"), run_end)


def finish(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], *,
    path: bool = True,
) -> None:
    """Gives a parser what all commands on trees have."""
    if path:
        parser.add_argument("path", metavar="PATH", help="from the root of the filesystem: /a/b")
    add_cluster_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def with_trees(args: argparse.Namespace, work: Work) -> Answer:
    """What `work` answers, with a client that is there for its time."""
    client = open_client(client_config(args), ThreadRuntime())
    drive(client.connect())
    try:
        with progress(quiet=args.json) as report:
            return drive(work(Trees(client.meta, own_credential()), report))
    finally:
        drive(client.end_session())


def print_answer(args: argparse.Namespace, answer: Answer, text: str) -> int:
    """Prints an answer for people or scripts; returns the exit status."""
    if args.json:
        print_json(answer)
    else:
        answers().print(text, soft_wrap=True)
    return 0


def run_rm(args: argparse.Namespace) -> int:
    """Removes a tree."""
    async def work(trees: Trees, report: Progress) -> Answer:
        return {"removed": args.path, "inode": (await trees.remove(args.path)).inode_id}

    return print_answer(args, with_trees(args, work),
                  f"removed {args.path}; its space is freed in the background")


def run_du(args: argparse.Namespace) -> int:
    """Tells usage."""
    async def work(trees: Trees, report: Progress) -> Answer:
        inode = await trees.find(args.path)
        if inode.quota_root == inode.inode_id:
            quota = await _get(trees, inode)
            if not quota.pending:
                return {"path": args.path, "bytes": quota.bytes_used,
                        "inodes": quota.inodes_used, "accounted": True}
        size, inodes = await trees.measure(inode, report)
        return {"path": args.path, "bytes": size, "inodes": inodes, "accounted": False}

    found = with_trees(args, work)
    return print_answer(args, found, f"{found['bytes']} bytes in {found['inodes']} inodes")


async def _get(trees: Trees, inode: meta_pb2.Inode) -> meta_pb2.Quota:
    return (await trees.meta.ask(
        services.META_GET_QUOTA, meta_pb2.StatRequest(inode_id=inode.inode_id))).quota


def _shown(quota: meta_pb2.Quota, path: str) -> Answer:
    return {"path": path, "bytes_used": quota.bytes_used, "bytes_limit": quota.bytes_limit or None,
            "inodes_used": quota.inodes_used, "inodes_limit": quota.inodes_limit or None,
            "pending": quota.pending, "removed": quota.removed}


def _line(shown: Answer) -> str:
    size, most = (int(str(shown[key] or 0)) for key in ("bytes_used", "bytes_limit"))
    state = "  (pending: still being counted)" if shown["pending"] else ""
    state = "  (ended; some inodes still count)" if shown["removed"] else state
    return (f"{shown['path']}: {size_text(size)} of {size_text(most) if most else 'no limit'}, "
            f"{shown['inodes_used']} inodes of {shown['inodes_limit'] or 'no limit'}{state}")


def run_get(args: argparse.Namespace) -> int:
    """Shows the quota of a path."""
    async def work(trees: Trees, report: Progress) -> Answer:
        quota = await _get(trees, await trees.find(args.path))
        if not quota.inode_id:
            raise FsError(Kind.NOT_FOUND, "no quota at or above it: `luciole quota set` makes one",
                          args.path)
        return _shown(quota, await trees.path_of(quota.inode_id))

    found = with_trees(args, work)
    return print_answer(args, found, _line(found))


def run_list(args: argparse.Namespace) -> int:
    """Shows all quotas."""
    async def work(trees: Trees, report: Progress) -> Answer:
        return {"quotas": [_shown(quota, await trees.path_of(quota.inode_id))
                           for quota in await trees.quotas()]}

    found = with_trees(args, work)
    rows = found["quotas"]
    assert isinstance(rows, list)
    return print_answer(args, found, "\n".join(map(_line, rows)) or "no quotas")


def run_set(args: argparse.Namespace) -> int:
    """Sets limits."""
    async def work(trees: Trees, report: Progress) -> Answer:
        inode = await trees.find(args.path)
        await trees.meta.change(services.META_SET_QUOTA, meta_pb2.SetQuotaRequest(
            credential=trees.credential, inode_id=inode.inode_id, bytes_limit=args.bytes,
            inodes_limit=args.inodes))
        quota = await _get(trees, inode)
        while args.wait and quota.pending:
            # Servers go on by themselves: whoever waits too long may interrupt and look later.
            report("counting what is there", quota.inodes_used, 0)
            await ThreadRuntime().sleep(LOOK_AGAIN_S)
            quota = await _get(trees, inode)
        return _shown(quota, args.path)

    found = with_trees(args, work)
    return print_answer(args, found, _line(found))


def run_end(args: argparse.Namespace) -> int:
    """Ends a quota."""
    async def work(trees: Trees, report: Progress) -> Answer:
        inode = await trees.find(args.path)
        await trees.meta.change(services.META_REMOVE_QUOTA, meta_pb2.RemoveQuotaRequest(
            credential=trees.credential, inode_id=inode.inode_id))
        return {"path": args.path, "removed": True}

    return print_answer(
        args, with_trees(args, work), f"{args.path} has no quota of its own any more")
