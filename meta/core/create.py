"""create: make a file, or open the one that is there; mknod; files without a name (O_TMPFILE).

Layer: pure. Source: open(2), mknod(2), acl(5) "Object creation and default ACLs".
"""

from __future__ import annotations

import stat

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, open_file, posix_acl, schema, usage
from luciole.meta.core.environment import Environment
from luciole.proto import common_pb2, meta_pb2

NODES = {
    meta_pb2.FIFO, meta_pb2.SOCKET, meta_pb2.CHARACTER_DEVICE, meta_pb2.BLOCK_DEVICE}
DEVICES = {meta_pb2.CHARACTER_DEVICE, meta_pb2.BLOCK_DEVICE}
Making = (
    meta_pb2.CreateRequest | meta_pb2.MakeDirRequest | meta_pb2.MakeNodeRequest
    | meta_pb2.SymlinkRequest)


def _inherited(
    parent: meta_pb2.Inode, kind: meta_pb2.FileType, request: Making
) -> tuple[int, bytes, bytes]:
    """(mode, access list, default list) of what is made: a default list replaces the umask."""
    if isinstance(request, meta_pb2.SymlinkRequest):
        return 0o777, b"", b""
    mode = request.mode & 0o7777
    if not parent.acl_default:
        return mode & ~(request.umask & 0o777), b"", b""
    acl, mode = posix_acl.inherit(parent.acl_default, mode)
    return mode, acl, parent.acl_default if kind == meta_pb2.DIRECTORY else b""


def new_inode(
    parent: meta_pb2.Inode, kind: meta_pb2.FileType, request: Making, env: Environment
) -> meta_pb2.Inode:
    """A fresh inode owned by the caller; a set-group-ID directory hands its group on (mkdir(2))."""
    credential = request.credential
    mode, acl_access, acl_default = _inherited(parent, kind, request)
    gid = credential.gid
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if kind == meta_pb2.DIRECTORY:
            mode |= stat.S_ISGID
    now = env.now_ns
    return meta_pb2.Inode(
        inode_id=env.new_inode_id, type=kind, mode=mode, uid=credential.uid, gid=gid, nlink=1,
        acl_access=acl_access, acl_default=acl_default, quota_root=parent.quota_root,
        atime_ns=now, mtime_ns=now, ctime_ns=now, btime_ns=now)


async def check_new_name(
    txn: Transaction, parent_id: int, name: bytes, credential: common_pb2.Credential
) -> meta_pb2.Inode:
    """The parent, if the caller may add entries to it. Raises FsError otherwise."""
    schema.check_name(name)
    parent = await inodes.load_directory(txn, parent_id)
    access.check_access(parent, credential, access.WRITE | access.EXECUTE)
    return parent


async def check_absent(txn: Transaction, parent_id: int, name: bytes) -> None:
    """Raises FsError EXISTS when the name is taken."""
    if await inodes.find_dentry(txn, parent_id, name) is not None:
        raise FsError(Kind.EXISTS, "the name is taken", repr(name))


async def enter(
    txn: Transaction, parent: meta_pb2.Inode, name: bytes, inode: meta_pb2.Inode, now_ns: int
) -> meta_pb2.Inode:
    """Stores a fresh inode and its first name; returns the parent as it is then.

    Raises FsError QUOTA_EXCEEDED.
    """
    await usage.charge(txn, inode.quota_root, inode.length, 1)
    inodes.store(txn, inode)
    inodes.add_dentry(txn, parent.inode_id, name, inode)
    txn.add(schema.INODE_COUNT, 1)
    is_directory = inode.type == meta_pb2.DIRECTORY
    return await inodes.change_directory(txn, parent, now_ns, subdirectories=int(is_directory))


async def create(
    txn: Transaction, request: meta_pb2.CreateRequest, env: Environment
) -> meta_pb2.CreateReply:
    """Makes a regular file; an existing one is opened unless the request is exclusive."""
    schema.check_name(request.name)
    parent = await inodes.load_directory(txn, request.parent)
    dentry = await inodes.find_dentry(txn, request.parent, request.name)
    if dentry is not None:
        access.check_access(parent, request.credential, access.EXECUTE)
        if request.exclusive:
            raise FsError(Kind.EXISTS, "the file exists", repr(request.name))
        inode = await open_file.open_existing(
            txn, await inodes.load_record(txn, dentry.inode_id), request, env)
        return meta_pb2.CreateReply(inode=inode, created=False)
    access.check_access(parent, request.credential, access.WRITE | access.EXECUTE)
    assert env.new_layout is not None
    inode = new_inode(parent, meta_pb2.REGULAR, request, env)
    inode.layout.CopyFrom(env.new_layout)
    inode.allocated = 0
    changed = await enter(txn, parent, request.name, inode, env.now_ns)
    open_file.begin_session(txn, request, inode.inode_id, env.now_ns)
    return meta_pb2.CreateReply(inode=inode, created=True, directories=[changed])


async def create_unnamed(
    txn: Transaction, request: meta_pb2.CreateRequest, env: Environment
) -> meta_pb2.CreateReply:
    """Makes a file that no name leads to: it goes with its last handle unless it is linked."""
    require(request.write and bool(request.session_id), Kind.INVALID_ARGUMENT,
            "a file without a name is made to be written")
    parent = await inodes.load_directory(txn, request.parent)
    access.check_access(parent, request.credential, access.WRITE | access.EXECUTE)
    assert env.new_layout is not None
    inode = new_inode(parent, meta_pb2.REGULAR, request, env)
    inode.layout.CopyFrom(env.new_layout)
    inode.nlink, inode.linkable = 0, True
    await usage.charge(txn, inode.quota_root, 0, 1)
    inodes.store_orphan(txn, inode, env.now_ns)
    txn.add(schema.INODE_COUNT, 1)
    open_file.begin_session(txn, request, inode.inode_id, env.now_ns)
    return meta_pb2.CreateReply(inode=inode, created=True)


async def make_node(
    txn: Transaction, request: meta_pb2.MakeNodeRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Makes a fifo, a socket or a device; only root makes devices."""
    require(request.type in NODES, Kind.INVALID_ARGUMENT,
            "mknod makes fifos, sockets and devices here", repr(request.name))
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    await check_absent(txn, request.parent, request.name)
    if request.type in DEVICES and request.credential.uid != 0:
        raise FsError(Kind.NOT_PERMITTED, "only root makes devices", repr(request.name))
    inode = new_inode(parent, request.type, request, env)
    inode.rdev = request.rdev if request.type in DEVICES else 0
    changed = await enter(txn, parent, request.name, inode, env.now_ns)
    return meta_pb2.InodeReply(inode=inode, directories=[changed])


async def make_root(txn: Transaction, now_ns: int) -> None:
    """Makes the root directory of a new namespace; changes nothing in an old one."""
    if await txn.get(schema.inode_key(schema.ROOT_ID)) is None:
        inodes.store(txn, meta_pb2.Inode(
            inode_id=schema.ROOT_ID, type=meta_pb2.DIRECTORY, mode=0o755, nlink=2,
            parent=schema.ROOT_ID, atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns,
            btime_ns=now_ns))
        txn.set(schema.times_key(schema.ROOT_ID), schema.encode_times(now_ns, now_ns))
        txn.add(schema.INODE_COUNT, 1)
