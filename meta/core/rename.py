"""rename: atomic, POSIX-exact, with the NOREPLACE and EXCHANGE of rename(2).

Layer: pure. A directory may not move below itself: the ancestors of the new parent are read with
conflict checking, so that two renames which together would close a loop cannot both commit.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, quota, schema, trash
from luciole.meta.core.environment import Environment
from luciole.proto import common_pb2, meta_pb2

DEPTH_MAX = 4096


async def rename(
    txn: Transaction, request: meta_pb2.RenameRequest, env: Environment
) -> meta_pb2.RenameReply:
    """Moves an entry, replacing what stands at the new name, or exchanges the two."""
    schema.check_name(request.name)
    schema.check_name(request.new_name)
    require(not (request.no_replace and request.exchange), Kind.INVALID_ARGUMENT,
            "NOREPLACE and EXCHANGE exclude each other")
    source_parent = await _writable(txn, request.parent, request.credential)
    target_parent = await _writable(txn, request.new_parent, request.credential)
    source = await inodes.need_dentry(txn, request.parent, request.name)
    target = await inodes.find_dentry(txn, request.new_parent, request.new_name)
    moved = await inodes.load_record(txn, source.inode_id)
    _check_moving(source_parent, moved, request)
    if moved.type == meta_pb2.DIRECTORY:
        await _check_no_loop(txn, moved.inode_id, request.new_parent)
    if request.exchange:
        return await _exchange(
            txn, request, env, moved, target=target, parents=(source_parent, target_parent))
    if target is None:
        await quota.move(txn, moved, source_parent, target_parent)
        changed = await _move(txn, request, env, moved, parents=(source_parent, target_parent))
        return meta_pb2.RenameReply(inode=moved, directories=changed)
    if request.no_replace:
        raise FsError(Kind.EXISTS, "the new name is taken", repr(request.new_name))
    if target.inode_id == source.inode_id:
        return meta_pb2.RenameReply(inode=moved)  # two names of one file: nothing happens
    replaced = await inodes.load_record(txn, target.inode_id)
    access.check_sticky(target_parent, replaced, request.credential)
    await quota.move(txn, moved, source_parent, target_parent)
    await _replace(txn, moved, replaced, request, env)
    changed = await _move(txn, request, env, moved, parents=(source_parent, target_parent),
                          replaced_directory=replaced.type == meta_pb2.DIRECTORY)
    return meta_pb2.RenameReply(inode=moved, replaced=replaced, directories=changed)


async def _writable(
    txn: Transaction, directory_id: int, credential: common_pb2.Credential
) -> meta_pb2.Inode:
    directory = await inodes.load_directory(txn, directory_id)
    access.check_access(directory, credential, access.WRITE | access.EXECUTE)
    return directory


def _check_moving(
    parent: meta_pb2.Inode, moved: meta_pb2.Inode, request: meta_pb2.RenameRequest
) -> None:
    access.check_sticky(parent, moved, request.credential)
    if moved.type == meta_pb2.DIRECTORY and request.parent != request.new_parent:
        # Its `..` changes, which is a write to the directory itself.
        access.check_access(moved, request.credential, access.WRITE)


async def _check_no_loop(txn: Transaction, moved_id: int, new_parent: int) -> None:
    ancestor = new_parent
    for _ in range(DEPTH_MAX):
        require(ancestor != moved_id, Kind.LOOP, "a directory cannot move below itself",
                f"inode {moved_id}")
        if ancestor == schema.ROOT_ID:
            return
        ancestor = (await inodes.load_directory(txn, ancestor)).parent
    raise FsError(Kind.LOOP, f"more than {DEPTH_MAX} directories deep", f"inode {new_parent}")


async def _replace(
    txn: Transaction, moved: meta_pb2.Inode, replaced: meta_pb2.Inode,
    request: meta_pb2.RenameRequest, env: Environment,
) -> None:
    """What stood at the new name goes, if the two are of a kind."""
    name = request.new_name
    if replaced.type == meta_pb2.DIRECTORY:
        require(moved.type == meta_pb2.DIRECTORY, Kind.IS_DIRECTORY,
                "a directory stands at the new name", repr(name))
        require(await inodes.is_empty(txn, replaced.inode_id), Kind.NOT_EMPTY,
                "the directory at the new name has entries", repr(name))
        inodes.drop(txn, replaced)
        replaced.nlink = 0
        return
    require(moved.type != meta_pb2.DIRECTORY, Kind.NOT_DIRECTORY,
            "the new name is no directory", repr(name))
    await trash.drop_link(txn, replaced, request.new_parent, name,
                          uid=request.credential.uid, now_ns=env.now_ns)


async def _move(
    txn: Transaction, request: meta_pb2.RenameRequest, env: Environment, moved: meta_pb2.Inode,
    *, parents: tuple[meta_pb2.Inode, meta_pb2.Inode], replaced_directory: bool = False,
) -> list[meta_pb2.Inode]:
    """Returns the directories that changed."""
    is_directory = int(moved.type == meta_pb2.DIRECTORY)
    txn.clear(schema.dentry_key(request.parent, request.name))
    inodes.add_dentry(txn, request.new_parent, request.new_name, moved)
    _moved(txn, moved, request.new_parent, env)
    gained = is_directory - int(replaced_directory)
    return await _change_both(txn, parents, env, -is_directory, gained)


async def _change_both(
    txn: Transaction, parents: tuple[meta_pb2.Inode, meta_pb2.Inode], env: Environment,
    *gained: int,
) -> list[meta_pb2.Inode]:
    """The entries of both directories, which may be one, changed; `gained`: subdirectories."""
    if parents[0].inode_id == parents[1].inode_id:
        return [await inodes.change_directory(txn, parents[0], env.now_ns, sum(gained))]
    return [await inodes.change_directory(txn, parent, env.now_ns, change)
            for parent, change in zip(parents, gained, strict=True)]


def _moved(txn: Transaction, inode: meta_pb2.Inode, parent: int, env: Environment) -> None:
    inode.ctime_ns = env.now_ns
    if inode.type == meta_pb2.DIRECTORY:
        inode.parent = parent
    inodes.store(txn, inode)


async def _exchange(
    txn: Transaction, request: meta_pb2.RenameRequest, env: Environment, moved: meta_pb2.Inode,
    *, target: meta_pb2.Dentry | None, parents: tuple[meta_pb2.Inode, meta_pb2.Inode],
) -> meta_pb2.RenameReply:
    if target is None:
        raise FsError(Kind.NOT_FOUND, "nothing to exchange with", repr(request.new_name))
    if target.inode_id == moved.inode_id:
        return meta_pb2.RenameReply(inode=moved, replaced=moved)
    other = await inodes.load_record(txn, target.inode_id)
    access.check_sticky(parents[1], other, request.credential)
    if other.type == meta_pb2.DIRECTORY:
        if request.parent != request.new_parent:
            access.check_access(other, request.credential, access.WRITE)
        await _check_no_loop(txn, other.inode_id, request.parent)
    await quota.move(txn, moved, *parents)
    await quota.move(txn, other, *reversed(parents))
    inodes.add_dentry(txn, request.new_parent, request.new_name, moved)
    inodes.add_dentry(txn, request.parent, request.name, other)
    _moved(txn, moved, request.new_parent, env)
    _moved(txn, other, request.parent, env)
    change = int(other.type == meta_pb2.DIRECTORY) - int(moved.type == meta_pb2.DIRECTORY)
    changed = await _change_both(txn, parents, env, change, -change)
    return meta_pb2.RenameReply(inode=moved, replaced=other, directories=changed)
