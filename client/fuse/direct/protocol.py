"""The kernel's side of FUSE as numbers and layouts: opcodes, flags, structures.

Layer: pure. Source: linux/fuse.h (uapi), protocol 7.38, with the opcodes and flags that were added
up to 7.45. All structures are in the byte order of the machine and padded to eight bytes. Names are
the header's, without the prefix FUSE_ and without struct. Sizes are pinned by tests.
"""

from __future__ import annotations

import enum
from struct import Struct

KERNEL_VERSION = 7
KERNEL_MINOR_MIN = 31  # Linux 5.4; below that, layouts differ that nobody has tried
KERNEL_MINOR = 39  # what this program knows of: with it came FUSE_DIRECT_IO_ALLOW_MMAP
ROOT_ID = 1
MIN_READ_BUFFER = 8192
PAGE = 4096


class Opcode(enum.IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


# Requests.
IN_HEADER = Struct("=IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, extensions / 8, pad
INIT_IN = Struct("=IIII")  # major, minor, max_readahead, flags
INIT_IN_EXTENDED = Struct("=IIIII")  # and flags2
GETATTR_IN = Struct("=IIQ")  # flags, pad, handle
GETATTR_FH = 1  # the handle means something
# valid, pad, handle, size, lock owner, atime, mtime, ctime, their nanoseconds, mode, pad, uid, gid,
# pad
SETATTR_IN = Struct("=IIQQQQQQIIIIIIII")
MKNOD_IN = Struct("=IIII")  # mode, device, umask, pad
MKDIR_IN = Struct("=II")  # mode, umask
RENAME_IN = Struct("=Q")  # new parent
RENAME2_IN = Struct("=QII")  # new parent, flags, pad
LINK_IN = Struct("=Q")  # inode
OPEN_IN = Struct("=II")  # flags, open flags
CREATE_IN = Struct("=IIII")  # flags, mode, umask, open flags
READ_IN = Struct("=QQIIQII")  # handle, offset, size, read flags, lock owner, flags, pad
WRITE_IN = Struct("=QQIIQII")  # handle, offset, size, write flags, lock owner, flags, pad
RELEASE_IN = Struct("=QIIQ")  # handle, flags, release flags, lock owner
FLUSH_IN = Struct("=QIIQ")  # handle, unused, pad, lock owner
FSYNC_IN = Struct("=QII")  # handle, flags, pad
INTERRUPT_IN = Struct("=Q")  # unique
FORGET_IN = Struct("=Q")  # how many lookups
BATCH_FORGET_IN = Struct("=II")  # count, pad
SETXATTR_IN = Struct("=II")  # size, flags (without FUSE_SETXATTR_EXT)
SETXATTR_IN_EXTENDED = Struct("=IIII")  # and more flags, pad
GETXATTR_IN = Struct("=II")  # size, pad
LOCK_IN = Struct("=QQQQIIII")  # handle, owner, start, end, type, pid, flags, pad
ACCESS_IN = Struct("=II")  # mask, pad
BMAP_IN = Struct("=QII")  # block, block size, pad
IOCTL_IN = Struct("=QIIQII")  # handle, flags, command, argument, in size, out size
POLL_IN = Struct("=QQII")  # handle, kernel's handle, flags, events
FALLOCATE_IN = Struct("=QQQII")  # handle, offset, length, mode, pad
LSEEK_IN = Struct("=QQII")  # handle, offset, whence, pad
COPY_FILE_RANGE_IN = Struct("=QQQQQQQ")  # handle, offset, node, handle, offset, length, flags
STATX_IN = Struct("=IIQII")  # getattr flags, reserved, handle, statx flags, mask

# Replies.
OUT_HEADER = Struct("=IiQ")  # len, negative errno, unique
# ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize,
# flags
ATTR = Struct("=QQQQQQIIIIIIIIII")
ATTR_OUT = Struct("=QII" + ATTR.format[1:])  # seconds valid, nanoseconds, pad
# nodeid, generation, seconds the entry and the attributes are valid, their nanoseconds
ENTRY_OUT = Struct("=QQQQII" + ATTR.format[1:])
OPEN_OUT = Struct("=QII")  # handle, flags, pad
WRITE_OUT = Struct("=II")  # size, pad
LSEEK_OUT = Struct("=Q")  # offset
STATFS_OUT = Struct("=QQQQQIIII24x")  # blocks, free, available, files, free, bsize, namelen, frsize
LOCK_OUT = Struct("=QQII")  # start, end, type, pid
# major, minor, max_readahead, flags, max_background, congestion threshold, max_write, time
# granularity, max_pages, map alignment, flags2
INIT_OUT = Struct("=IIIIHHIIHHI28x")
DIRENT = Struct("=QQII")  # inode, next offset, length of the name, type
GETXATTR_OUT = Struct("=II")  # size, pad
# seconds valid, nanoseconds, flags; then fuse_statx: mask, blksize, attributes, nlink, uid, gid,
# mode, ino, size, blocks, attributes mask, atime, btime, ctime, mtime as (seconds, nanoseconds),
# device's major, minor
STATX_OUT = Struct("=QII16x" "IIQIIIH2xQQQQ" "qI4x" "qI4x" "qI4x" "qI4x" "II8x112x")
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800

# Notifications: their code stands where a reply has its error.
NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
NOTIFY_STORE = 4
NOTIFY_DELETE = 6
NOTIFY_INC_EPOCH = 8  # since 7.44
NOTIFY_INVAL_INODE_OUT = Struct("=Qqq")  # inode, offset, length
NOTIFY_INVAL_ENTRY_OUT = Struct("=QII")  # parent, length of the name, flags
NOTIFY_DELETE_OUT = Struct("=QQII")  # parent, child, length of the name, pad
NOTIFY_STORE_OUT = Struct("=QQII")  # node, offset, size, pad

# fuse_setattr_in.valid
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_KILL_SUIDGID = 1 << 11
# The kernel asks for set-user-ID and set-group-ID to be cleared.
OPEN_KILL_SUIDGID = 1 << 0
WRITE_CACHE = 1 << 0  # pages of the kernel's, not a call of an application's
WRITE_KILL_SUIDGID = 1 << 2
# Flags of the reply to OPEN and CREATE.
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
LK_FLOCK = 1 << 0  # fuse_lk_in.lk_flags
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
XATTR_CREATE = 1 << 0
XATTR_REPLACE = 1 << 1
SETXATTR_ACL_KILL_SGID = 1 << 0
RENAME_NOREPLACE = 1 << 0
RENAME_EXCHANGE = 1 << 1

DEVICE_CLONE = 0x8004E500  # FUSE_DEV_IOC_CLONE = _IOR(229, 0, uint32_t)


class Init(enum.IntFlag):
    """Flags of INIT. Bits 32 and above travel in flags2."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
