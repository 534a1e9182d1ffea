"""Extended attributes: set, get, list, remove.

Layer: pure. Each is a record of its own under `XATR`, so that stat does not load them; the inode
holds how many bytes they have, and 0 tells without a read that there are none. They go with their
inode. Access control lists look like attributes but stand in the inode itself, since every check
of a permission needs them (posix_acl.py).

Source: xattr(7) for namespaces and limits; setxattr(2), listxattr(2), capabilities(7).
"""

from __future__ import annotations

import stat

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction
from luciole.limits import XATTR_INODE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from luciole.meta.core import access, inodes, posix_acl, schema
from luciole.meta.core.environment import Environment
from luciole.proto import common_pb2, meta_pb2

ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"
CAPABILITY = b"security.capability"
_ACLS = {ACL_ACCESS, ACL_DEFAULT}


def _check_name(name: bytes) -> None:
    require(0 < len(name) <= XATTR_NAME_BYTES_MAX, Kind.OUT_OF_RANGE,
            f"the name of an attribute has 1 to {XATTR_NAME_BYTES_MAX} bytes, this {len(name)}")
    space, _, rest = name.partition(b".")
    require(name in _ACLS or (space in {b"user", b"trusted", b"security"} and bool(rest)),
            Kind.NOT_SUPPORTED, "attributes are user., trusted., security. or POSIX ACLs",
            repr(name))


def _check_access(
    inode: meta_pb2.Inode, name: bytes, credential: common_pb2.Credential, *, write: bool
) -> None:
    """xattr(7), by namespace."""
    space = name.partition(b".")[0]
    about = f"{name!r} of inode {inode.inode_id}"
    if name in _ACLS:
        require(inode.type != meta_pb2.SYMLINK, Kind.NOT_SUPPORTED,
                "a symbolic link has no access control list", about)
        if write:
            access.check_owner(inode, credential)
    elif space == b"user":
        if inode.type not in {meta_pb2.REGULAR, meta_pb2.DIRECTORY}:
            raise FsError(Kind.NOT_PERMITTED if write else Kind.NO_ATTRIBUTE,
                          "only files and directories have user attributes", about)
        if write and inode.type == meta_pb2.DIRECTORY and inode.mode & stat.S_ISVTX:
            access.check_owner(inode, credential)
        access.check_access(inode, credential, access.WRITE if write else access.READ)
    elif credential.uid != 0 and (write or space == b"trusted"):
        raise FsError(Kind.NOT_PERMITTED if write else Kind.NO_ATTRIBUTE,
                      "only root may do this", about)


def _absent(name: bytes) -> FsError:
    return FsError(Kind.NO_ATTRIBUTE, "no such attribute", repr(name))


async def get_xattr(txn: Transaction, request: meta_pb2.GetXattrRequest) -> meta_pb2.GetXattrReply:
    """The value of one. Raises FsError NO_ATTRIBUTE when it is not there."""
    _check_name(request.name)
    inode = await inodes.load_record(txn, request.inode_id)
    _check_access(inode, request.name, request.credential, write=False)
    value = await _find(txn, inode, request.name)
    if value is None:
        raise _absent(request.name)
    return meta_pb2.GetXattrReply(value=value)


async def _find(txn: Transaction, inode: meta_pb2.Inode, name: bytes) -> bytes | None:
    if name in _ACLS:
        return (inode.acl_access if name == ACL_ACCESS else inode.acl_default) or None
    if not inode.xattr_bytes:
        return None
    stored = await txn.get(schema.xattr_key(inode.inode_id, name))
    return None if stored is None else schema.decode_bytes(stored, f"attribute {name!r}")


async def list_xattr(
    txn: Transaction, request: meta_pb2.ListXattrRequest
) -> meta_pb2.ListXattrReply:
    """The names that the caller may see, in order."""
    inode = await inodes.load_record(txn, request.inode_id)
    names = []
    if inode.xattr_bytes:
        begin, end = schema.xattr_range(inode.inode_id)
        names = [row.key[len(begin):] for row in await txn.get_range(begin, end)]
    names += [ACL_ACCESS] * bool(inode.acl_access) + [ACL_DEFAULT] * bool(inode.acl_default)
    if request.credential.uid != 0:
        names = [name for name in names if not name.startswith(b"trusted.")]
    return meta_pb2.ListXattrReply(names=sorted(names))


async def set_xattr(
    txn: Transaction, request: meta_pb2.SetXattrRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Makes or replaces one."""
    _check_name(request.name)
    require(not (request.create and request.replace), Kind.INVALID_ARGUMENT,
            "CREATE and REPLACE exclude each other")
    require(len(request.value) <= XATTR_VALUE_BYTES_MAX, Kind.ARGUMENT_TOO_LARGE,
            f"a value has at most {XATTR_VALUE_BYTES_MAX} bytes", repr(request.name))
    inode = await inodes.load(txn, request.inode_id)
    _check_access(inode, request.name, request.credential, write=True)
    before = await _find(txn, inode, request.name)
    if request.create and before is not None:
        raise FsError(Kind.EXISTS, "the attribute exists", repr(request.name))
    if request.replace and before is None:
        raise _absent(request.name)
    if request.name in _ACLS:
        _set_acl(inode, request.name, posix_acl.decode(request.value),
                 clear_setgid=request.clear_setgid)
    else:
        _account(inode, request.name, before, request.value)
        txn.set(schema.xattr_key(inode.inode_id, request.name), schema.encode_bytes(request.value))
    return _changed(txn, inode, env)


async def remove_xattr(
    txn: Transaction, request: meta_pb2.RemoveXattrRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Removes one. An access control list need not be there, as on other filesystems of Linux."""
    _check_name(request.name)
    inode = await inodes.load(txn, request.inode_id)
    _check_access(inode, request.name, request.credential, write=True)
    before = await _find(txn, inode, request.name)
    if before is None and request.name in _ACLS:
        return meta_pb2.InodeReply(inode=inode)
    if before is None:
        raise _absent(request.name)
    if request.name in _ACLS:
        _set_acl(inode, request.name, (), clear_setgid=False)
    else:
        _account(inode, request.name, before, None)
        txn.clear(schema.xattr_key(inode.inode_id, request.name))
    return _changed(txn, inode, env)


def _account(
    inode: meta_pb2.Inode, name: bytes, before: bytes | None, after: bytes | None
) -> None:
    """Keeps the count of bytes, and its limit."""
    sizes = [0 if value is None else len(name) + 1 + len(value) for value in (before, after)]
    total = inode.xattr_bytes - sizes[0] + sizes[1]
    require(total <= XATTR_INODE_BYTES_MAX or total <= inode.xattr_bytes, Kind.NO_SPACE,
            f"the attributes of one file have at most {XATTR_INODE_BYTES_MAX} bytes",
            f"inode {inode.inode_id}")
    inode.xattr_bytes = total


def _set_acl(
    inode: meta_pb2.Inode, name: bytes, acl: posix_acl.Acl, *, clear_setgid: bool
) -> None:
    """Puts a list in its place; one without entries takes it away."""
    if name == ACL_DEFAULT:
        if acl and inode.type != meta_pb2.DIRECTORY:
            raise FsError(Kind.ACCESS_DENIED, "only directories have a default list",
                          f"inode {inode.inode_id}")
        inode.acl_default = posix_acl.encode(acl) if acl else b""
        return
    if acl:
        inode.mode = inode.mode & ~0o777 | posix_acl.mode_bits(acl)
        if clear_setgid:
            inode.mode &= ~stat.S_ISGID
    inode.acl_access = b"" if posix_acl.is_minimal(acl) else posix_acl.encode(acl)


def _changed(
    txn: Transaction, inode: meta_pb2.Inode, env: Environment
) -> meta_pb2.InodeReply:
    inode.ctime_ns = env.now_ns
    inodes.store(txn, inode)
    return meta_pb2.InodeReply(inode=inode)


async def drop_capability(txn: Transaction, inode: meta_pb2.Inode) -> None:
    """A file that changed hands or content loses its capabilities (capabilities(7)).

    Changes `inode`, which the caller stores.
    """
    if not inode.xattr_bytes:
        return
    before = await _find(txn, inode, CAPABILITY)
    if before is not None:
        _account(inode, CAPABILITY, before, None)
        txn.clear(schema.xattr_key(inode.inode_id, CAPABILITY))
