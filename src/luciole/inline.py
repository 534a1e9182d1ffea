"""The inline part of a file: what the metadata service and clients must see alike.

Layer: kernel, pure. A file that was born small keeps its first `INLINE_BYTES_MAX` bytes beside its
inode, and has chunks only for what lies behind them (meta/core/inline.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2


def is_inline(inode: meta_pb2.Inode) -> bool:
    """Whether the first bytes of a file are beside its inode, and not in chunks."""
    return inode.HasField("inline_bytes")


def chunks_end(inode: meta_pb2.Inode, length: int | None = None) -> int:
    """The end of what chunks may hold of a file; 0: it has none. `length`, if known better."""
    end = inode.length if length is None else length
    return 0 if is_inline(inode) and end <= INLINE_BYTES_MAX else end


def overlaid(content: bytes, patches: Iterable[meta_pb2.Patch]) -> bytes:
    """`content` with patches written over it, and zeros where it does not reach them."""
    whole = bytearray(content)
    for patch in patches:
        whole.extend(bytes(max(0, patch.offset - len(whole))))
        whole[patch.offset : patch.offset + len(patch.data)] = patch.data
    return bytes(whole)
