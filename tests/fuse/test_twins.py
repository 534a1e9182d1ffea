"""Of a mapped page only what was stored into it is written back."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from luciole.client.fuse.direct import twins
from luciole.client.fuse.direct.protocol import PAGE
from luciole.client.fuse.direct.twins import Twins, passes_pages

FILE = 7
ZEROS = memoryview(bytes(PAGE))


def kept(pages: int = 1) -> Twins:
    made = Twins()
    assert made.begin(FILE)
    made.given(FILE, 0, memoryview(bytes(pages * PAGE)), pages * PAGE)
    return made


def stored(made: Twins, content: bytes) -> list[tuple[int, int]]:
    return made.differences(FILE, 0, memoryview(content))


def test_a_file_is_begun_once() -> None:
    made = Twins()
    assert made.begin(FILE)
    assert not made.begin(FILE)


@given(st.lists(st.integers(0, PAGE + 8), max_size=20, unique=True))
def test_two_holders_of_a_page_keep_each_others_bytes(places: list[int]) -> None:
    """Whatever both store at different places, in whatever order they are written back."""
    content = bytes(number % 251 for number in range(PAGE + 9))
    chain = bytearray(content)
    wanted = bytearray(content)
    for holder in range(2):
        made = Twins()
        made.begin(FILE)
        made.given(FILE, 0, memoryview(content), 2 * PAGE)
        page = bytearray(content)
        for place in places[holder::2]:
            page[place] ^= 0xFF
            wanted[place] ^= 0xFF
        for begin, end in stored(made, bytes(page)):
            chain[begin:end] = page[begin:end]
    assert chain == wanted


def test_what_was_taken_is_not_taken_again() -> None:
    made = kept(2)
    page = bytes(PAGE - 2) + b"abcd" + bytes(PAGE - 2)
    assert stored(made, page) == [(PAGE - 2, PAGE + 2)], "over the border of two pages at once"
    made.taken(FILE, 0, memoryview(page))
    assert stored(made, page) == []
    made.taken(FILE, 1, memoryview(b"x"))  # a write(2), which changes the page and the file alike
    assert stored(made, b"\0x" + page[2:]) == []


def test_the_end_of_a_file_is_compared_as_far_as_it_goes() -> None:
    made = Twins()
    made.begin(FILE)
    made.given(FILE, 0, memoryview(b"end"), PAGE)
    assert stored(made, b"enD") == [(2, 3)]
    assert stored(made, b"end\0\0!") == [(5, 6)], "the kernel fills the page with zeros"


def test_a_cut_makes_zeros() -> None:
    made = Twins()
    made.begin(FILE)
    made.given(FILE, 0, memoryview(b"x" * 2 * PAGE), 2 * PAGE)
    made.zero(FILE, 10, 1 << 50)
    assert stored(made, b"x" * 10 + bytes(2 * PAGE - 10)) == []


def test_without_a_twin_a_page_is_written_whole() -> None:
    made = kept(2)
    made.forget(FILE, 5, 1)
    assert stored(made, bytes(2 * PAGE)) == [(0, PAGE)]
    assert made.differences(FILE + 1, 0, ZEROS) == [(0, PAGE)]
    made.taken(FILE, 3, memoryview(b"part"))
    assert stored(made, bytes(PAGE)) == [(0, PAGE)], "a part of a page is no twin"
    assert passes_pages(os.O_DIRECT)
    assert not passes_pages(os.O_RDWR)


def test_memory_is_bounded() -> None:
    made = Twins()
    whole = memoryview(bytes(twins.FILE_PAGES * PAGE))
    for number in range(twins.PAGES_MAX // twins.FILE_PAGES + 1):
        made.begin(number)
        made.given(number, 0, whole, len(whole))
    assert made.differences(0, 0, ZEROS) == [(0, PAGE)], "used longest ago"
    assert made.differences(1, 0, ZEROS) == []
    made.given(1, len(whole), ZEROS, PAGE)
    assert made.differences(1, len(whole), ZEROS) == [(0, PAGE)], "behind the first pages"
    for number in range(100, 100 + twins.FILES_MAX):
        made.begin(number)
    assert made.differences(1, 0, ZEROS) == [(0, PAGE)]
    made.given(1, 0, ZEROS, PAGE)
    assert made.differences(1, 0, ZEROS) == [(0, PAGE)], "no longer begun"
