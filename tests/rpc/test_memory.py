"""Regions: sealed, found by address, alive as long as a view of them."""

from __future__ import annotations

import fcntl
import gc
import os

import pytest

from luciole.errors import FsError, Kind
from luciole.rpc.memory import PAGE, SEALS, Region, place_of


def test_a_view_is_found_in_its_region_and_nowhere_after_close() -> None:
    first, second = Region(3 * PAGE), Region(100)
    part = first.view[PAGE + 5 : 2 * PAGE]
    assert place_of(part) == (first, PAGE + 5)
    assert place_of(part.toreadonly()) == (first, PAGE + 5)
    assert place_of(second.view) == (second, 0)
    assert place_of(memoryview(bytearray(10))) is None
    assert place_of(first.view[:0]) is None
    first.close()
    first.close()
    assert first.closed
    assert place_of(part) is None
    part[:3] = b"yes"  # the memory is there as long as somebody looks at it
    assert bytes(part[:3]) == b"yes"


def test_nobody_can_change_its_size() -> None:
    region = Region(PAGE)
    assert fcntl.fcntl(region.file, fcntl.F_GET_SEALS) & SEALS == SEALS
    for size in (0, 2 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(region.file, size)
    region.close()


def test_a_dropped_region_leaves_no_descriptor() -> None:
    region = Region(PAGE)
    file = region.file
    view = region.view
    ended = []
    region.on_close(lambda: ended.append(True))
    del region
    gc.collect()
    assert ended
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file)
    assert place_of(view) is None
    view[0] = 1


def test_pages_taken_back_are_out_of_reach_of_who_maps_the_file() -> None:
    region = Region(4 * PAGE)
    region.view[:] = b"a" * len(region.view)
    region.lend_no_more(PAGE, PAGE)
    os.pwrite(region.file, b"b" * region.size, 0)
    assert bytes(region.view[:PAGE]) == b"b" * PAGE
    assert bytes(region.view[PAGE : 2 * PAGE]) == bytes(PAGE)
    assert bytes(region.view[2 * PAGE :]) == b"b" * 2 * PAGE
    assert place_of(region.view[PAGE - 1 : PAGE]) == (region, PAGE - 1)
    assert place_of(region.view[PAGE - 1 : PAGE + 1]) is None
    region.close()


def test_an_empty_buffer_is_refused() -> None:
    with pytest.raises(FsError) as caught:
        Region(0)
    assert caught.value.kind == Kind.INVALID_ARGUMENT
