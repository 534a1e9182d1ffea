"""Layout: an I/O is cut without gap or overlap, and a chunk has one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luciole.client.core import layout
from luciole.errors import FsError, Kind
from luciole.limits import CHUNKS_PER_FILE_MAX
from luciole.proto import meta_pb2, mgmtd_pb2

SIZES = st.sampled_from([1 << 16, 1 << 20, 1 << 26])


@given(SIZES, st.integers(0, 1 << 34), st.integers(0, 1 << 27))
def test_cut_covers_exactly(size: int, offset: int, length: int) -> None:
    pieces = layout.cut(offset, length, meta_pb2.Layout(chunk_size=size))
    position = 0
    for piece in pieces:
        assert piece.position == position
        assert piece.length > 0
        assert piece.chunk * size + piece.offset == offset + position
        assert piece.offset + piece.length <= size
        position += piece.length
    assert position == length
    assert len({piece.chunk for piece in pieces}) == len(pieces)


def test_a_file_ends_with_the_last_chunk_that_an_id_can_name() -> None:
    small = meta_pb2.Layout(chunk_size=1 << 16)
    end = layout.file_bytes_max(small)
    assert layout.cut(end - 1, 1, small)[0].chunk == CHUNKS_PER_FILE_MAX - 1
    with pytest.raises(FsError) as caught:
        layout.cut(end, 1, small)
    assert caught.value.kind == Kind.FILE_TOO_LARGE


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100), st.integers(0, 1 << 32))
def test_chunks_take_the_stripe_in_turn(
    chains: int, stripe: int, seed: int, index: int
) -> None:
    table = mgmtd_pb2.ChainTable(chain_ids=range(10, 10 + chains))
    shape = meta_pb2.Layout(stripe=min(stripe, chains), seed=seed)
    used = layout.chains_of(shape, table)
    assert len(used) == len(set(used)) == shape.stripe
    assert layout.chain_of(shape, table, index) == used[index % shape.stripe]


@given(st.integers(0, (1 << 64) - 1), st.integers(0, CHUNKS_PER_FILE_MAX))
def test_ids_name_a_chunk_and_sort_by_index(inode: int, index: int) -> None:
    identity = layout.chunk_id(inode, index)
    assert len(identity) == 16
    assert layout.parse_chunk_id(identity) == (inode, index)
    begin, end = layout.chunks_from(inode, index)
    assert begin == identity < end
    if index:
        assert layout.chunk_id(inode, index - 1) < begin
    if inode:
        assert layout.chunks_from(inode - 1, 0)[1] <= layout.chunk_id(inode, 0)
    assert layout.chunks_from(inode, CHUNKS_PER_FILE_MAX + 1) == (end, end)
