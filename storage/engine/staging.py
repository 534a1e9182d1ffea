"""Writes the bytes of a new version, beside the committed one.

Layer: shell of the engine; knows blocks and content, not records' storage. The committed version
stays readable to the byte throughout. A punch up to the end of the content shortens it, and any
other is an overwrite with zeros. Four ways:

- *share*: the content is a prefix of the committed one in the same size class: same block;
- *append in place*: the new bytes lie behind everything ever written in the committed block and
  fit it: same block, and the CRC of a partial last 64 KiB continues from the stored one;
- *patch*: a small overwrite writes the 64 KiB pieces that it touches to fresh blocks of class 0;
  the rest of the content stays where it is. A chunk with PATCHES_MAX patches, or as many as leave
  its block without a piece, is copied instead, which ends its patches;
- *copy on write*: a fresh block of the class that the new length needs. 64 KiB blocks that the
  update does not touch are copied unread, with their stored checksums, so that rot in them stays
  detectable; those that it touches in part are read and verified first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from luciole.checksum import BLOCK_SIZE, block_checksums, crc32c
from luciole.errors import FsError
from luciole.storage.engine.blockmath import (
    ZEROS,
    append_data,
    append_zeros,
    block_end,
    block_start,
    class_for,
    pack,
)
from luciole.storage.engine.checks import PUNCH, REMOVE, REPLACE, TRUNCATE, mismatch
from luciole.storage.engine.content import (
    copy_content,
    cut_views,
    patches_allowed,
    place_of,
    read_content,
)
from luciole.storage.engine.interface import Update
from luciole.storage.engine.ports import BlockDisk
from luciole.storage.engine.records import Block, StoredVersion

NOTHING = memoryview(b"")
EMPTY = StoredVersion(0, 0)


class Content(NamedTuple):
    """Where a version's bytes are."""

    length: int
    block: Block | None
    written: int
    checksums: bytes
    patches: tuple[tuple[int, int], ...] = ()


class Stager:
    """Builds the content of pending versions.

    Args:
        disk: where blocks are.
        allocate: takes a block of a size class, backed by disk. Raises FsError NO_SPACE.
        release: gives back one that is not used after all.
    """

    def __init__(
        self,
        disk: BlockDisk,
        allocate: Callable[[int], Block],
        release: Callable[[Block], None],
    ) -> None:
        self._disk = disk
        self._allocate = allocate
        self._release = release

    def stage(
        self,
        chunk_id: bytes,
        number: int,
        base: StoredVersion | None,
        update: Update,
        data: memoryview,
    ) -> StoredVersion:
        """Writes what the update adds and returns the version, not recorded anywhere yet.

        Args:
            chunk_id: for errors.
            number: of the new version.
            base: the committed version, or None.
            update: checked, and `data` verified against its checksums.
            data: its bytes.
        """
        tag = update.tag
        stored_tag = (tag.client_id, tag.channel, tag.sequence) if tag is not None else None
        if update.kind == REMOVE:
            return StoredVersion(number, 0, removed=True, tag=stored_tag)
        content = self._content(chunk_id, base or EMPTY, update, data)
        return _placed(StoredVersion(number, 0, tag=stored_tag), content)

    def rewrite(self, chunk_id: bytes, version: StoredVersion, data: memoryview) -> StoredVersion:
        """The same version with its content in a block of its own.

        Raises FsError CHECKSUM_MISMATCH unless `data` is that content.
        """
        checksums = block_checksums(0, data)
        if len(data) != version.length or pack(checksums) != version.checksums:
            raise mismatch(chunk_id, 0, f"these are not the bytes of version {version.number}")
        whole = Update(REPLACE, 0, len(data), 0, tuple(checksums))
        return _placed(version, self._replace(whole, data))

    def _content(
        self, chunk_id: bytes, base: StoredVersion, update: Update, data: memoryview
    ) -> Content:
        if update.kind == REPLACE:
            return self._replace(update, data)
        if update.kind == TRUNCATE:
            if update.length > base.length:
                return self._extend(base, update.length, NOTHING, ())
            return self._shrink(chunk_id, base, update.length)
        if update.kind == PUNCH:
            return self._punch(chunk_id, base, update)
        if update.length == 0:
            return self._shrink(chunk_id, base, base.length)
        if update.offset >= base.length:
            return self._extend(base, update.offset, data, update.checksums)
        if update.offset == 0 and update.length >= base.length:
            return self._replace(update, data)
        return self._overwrite(chunk_id, base, update, data)

    def _punch(self, chunk_id: bytes, base: StoredVersion, update: Update) -> Content:
        if not update.length or update.offset >= base.length:
            return self._shrink(chunk_id, base, base.length)
        if update.offset + update.length >= base.length:
            return self._shrink(chunk_id, base, update.offset)
        zeros = memoryview(bytes(update.length))
        checksums = tuple(block_checksums(update.offset, zeros))
        return self._overwrite(chunk_id, base, replace(update, checksums=checksums), zeros)

    def _replace(self, update: Update, data: memoryview) -> Content:
        """The content is the data, whose checksums are stored as they came."""
        if update.length == 0:
            return Content(0, None, 0, b"")

        def fill(block: Block) -> None:
            self._disk.write(block, 0, [data])

        block = self._fresh(update.length, fill)
        return Content(update.length, block, update.length, pack(update.checksums))

    def _shrink(self, chunk_id: bytes, base: StoredVersion, length: int) -> Content:
        """A prefix of the committed content, perhaps all of it."""
        if length == base.length:
            return Content(length, base.block, base.written, base.checksums, base.patches)
        if length == 0 or base.block is None:
            return Content(0, None, 0, b"")
        checksums = base.checksums[: length // BLOCK_SIZE * 4]
        if length % BLOCK_SIZE:
            last = self._stored_block(chunk_id, base, length // BLOCK_SIZE)
            checksums += pack([crc32c(last[: length % BLOCK_SIZE])])
        if class_for(length) == base.block.size_class:
            kept = tuple(patch for patch in base.patches if patch[0] * BLOCK_SIZE < length)
            return Content(length, base.block, base.written, checksums, kept)
        block = self._fresh(
            length, lambda target: copy_content(self._disk, base, target, 0, length)
        )
        return Content(length, block, length, checksums)

    def _extend(
        self, base: StoredVersion, offset: int, data: memoryview, verified: tuple[int, ...]
    ) -> Content:
        """The committed content, zeros up to `offset`, then `data`."""
        length = offset + len(data)
        gap = offset - base.length
        views = [data] if data else []
        if gap:
            zeros = memoryview(ZEROS)
            tail = [zeros[: gap % BLOCK_SIZE]] if gap % BLOCK_SIZE else []
            views = [zeros] * (gap // BLOCK_SIZE) + tail + views
        checksums = base.block_checksums()
        append_zeros(checksums, base.length, gap)
        append_data(checksums, offset, data, verified)
        source = base.block
        in_place = base.written == base.length and not _ends_in_patch(base)
        if source and in_place and class_for(length) == source.size_class:
            self._disk.write(source, base.length, views)
            return Content(length, source, length, pack(checksums), base.patches)

        def fill(block: Block) -> None:
            copy_content(self._disk, base, block, 0, base.length)
            self._disk.write(block, base.length, views)

        return Content(length, self._fresh(length, fill), length, pack(checksums))

    def _overwrite(
        self, chunk_id: bytes, base: StoredVersion, update: Update, data: memoryview
    ) -> Content:
        """The committed content with `data` laid over it, from before its end on."""
        source = base.block
        assert source is not None
        begin, end = update.offset, update.offset + update.length
        length = max(base.length, end)
        head, tail = self._edges(chunk_id, base, begin, end)
        checksums = base.block_checksums()
        position = begin
        first = begin // BLOCK_SIZE
        changed = []
        for verified in update.checksums:
            checksum = verified
            stop = min(block_end(position + 1), end)
            piece = data[position - begin : stop - begin]
            before = head if position == begin else NOTHING
            after = tail if stop == end else NOTHING
            if before or after:
                checksum = crc32c(after, crc32c(piece, crc32c(before)))
            changed.append(checksum)
            position = stop
        checksums[first : first + len(changed)] = changed
        touched = range(first, first + len(changed))
        if class_for(length) == source.size_class and _worth_patching(base, length, touched):
            patches = self._patch(base, touched, [head, data, tail])
            return Content(length, source, base.written, pack(checksums), patches)

        def fill(block: Block) -> None:
            copy_content(self._disk, base, block, 0, begin - len(head))
            self._disk.write(block, begin - len(head), [head, data, tail])
            copy_content(self._disk, base, block, end + len(tail), base.length)

        return Content(length, self._fresh(length, fill), length, pack(checksums))

    def _patch(
        self, base: StoredVersion, touched: range, views: list[memoryview]
    ) -> tuple[tuple[int, int], ...]:
        """Writes the touched pieces, whose bytes are `views`, and returns all patches."""
        patches = dict(base.patches)
        taken: list[Block] = []
        try:
            for index in touched:
                block = self._allocate(0)
                taken.append(block)
                start = (index - touched.start) * BLOCK_SIZE
                self._disk.write(block, 0, cut_views(views, start, BLOCK_SIZE))
                patches[index] = block.number
        except FsError:
            for block in taken:
                self._release(block)
            raise
        return tuple(sorted(patches.items()))

    def _edges(
        self, chunk_id: bytes, base: StoredVersion, begin: int, end: int
    ) -> tuple[memoryview, memoryview]:
        """The verified old bytes before and after [begin, end) in its first and last block."""
        head = tail = NOTHING
        first, last = begin // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
        stored = NOTHING
        if begin % BLOCK_SIZE:
            stored = self._stored_block(chunk_id, base, first)
            head = stored[: begin % BLOCK_SIZE]
        if end % BLOCK_SIZE and end < base.length:
            if last != first or not stored:
                stored = self._stored_block(chunk_id, base, last)
            tail = stored[end - block_start(end) :]
        return head, tail

    def _stored_block(self, chunk_id: bytes, base: StoredVersion, number: int) -> memoryview:
        """One 64 KiB block of the committed content, verified."""
        start = number * BLOCK_SIZE
        view = memoryview(bytearray(min(BLOCK_SIZE, base.length - start)))
        count = read_content(self._disk, base, start, [view])
        if count < len(view) or crc32c(view) != base.block_checksums()[number]:
            where = self._disk.where(place_of(base, start).block)
            raise mismatch(chunk_id, number, f"stored bytes rotted in {where}")
        return view

    def _fresh(self, length: int, fill: Callable[[Block], None]) -> Block:
        """A block for `length` bytes, filled; given back if that fails."""
        block = self._allocate(class_for(length))
        try:
            fill(block)
        except FsError:
            self._release(block)
            raise
        return block


def _placed(version: StoredVersion, content: Content) -> StoredVersion:
    """The version with its bytes at the place that `content` tells."""
    return StoredVersion(
        version.number,
        content.length,
        version.removed,
        version.tag,
        content.block,
        content.written,
        content.checksums,
        content.patches,
    )


def _ends_in_patch(version: StoredVersion) -> bool:
    """Whether bytes behind the last would belong to a patched piece."""
    last, inside = divmod(version.length, BLOCK_SIZE)
    return inside > 0 and any(index == last for index, _ in version.patches)


def _worth_patching(base: StoredVersion, length: int, touched: range) -> bool:
    """Whether patches of these pieces are few, and cost much less than a copy of the chunk."""
    pieces = block_end(length) // BLOCK_SIZE
    patched = {index for index, _ in base.patches} | set(touched)
    return len(touched) <= max(1, pieces // 4) and len(patched) <= patches_allowed(pieces)
