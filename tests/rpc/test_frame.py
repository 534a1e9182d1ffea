"""The codec against anything a network can bring: a valid frame or an FsError, nothing else."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2
from luciole.rpc import frame, stream
from luciole.rpc.interface import MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX

BAD = {Kind.CORRUPT_FRAME, Kind.UNIMPLEMENTED, Kind.CONNECTION_LOST}


def feed(reader: stream.Reader[stream.T], data: bytes, piece: int = 1 << 20) -> stream.T:
    """Drives a reader with `data`, at most `piece` bytes at a time, then the end of the stream."""
    position = 0
    try:
        wanted = next(reader)
        while True:
            count = min(piece, len(wanted[0]), len(data) - position)
            wanted[0][:count] = data[position : position + count]
            position += count
            wanted = reader.send(count)
    except StopIteration as stop:
        result: stream.T = stop.value
        return result


def header_of(body_change: dict[int, bytes]) -> memoryview:
    """The header of a good request with bytes replaced at offsets and its checksum made right."""
    data = bytearray(frame.encode(frame.REQUEST, b"", service_id=3, method_id=1))
    for offset, replacement in body_change.items():
        data[offset : offset + len(replacement)] = replacement
    data[36:40] = crc32c(data[:36]).to_bytes(4, "little")
    return memoryview(data)


frames = st.builds(
    lambda kind, message, payload, request_id: (
        frame.encode(
            kind,
            message,
            service_id=3,
            method_id=2,
            deadline_ms=500,
            request_id=request_id,
            payload_length=len(payload),
        )
        + payload
    ),
    st.sampled_from([frame.REQUEST, frame.REPLY]),
    st.binary(max_size=200),
    st.binary(max_size=200),
    st.integers(0, 2**64 - 1),
)


@given(frames, st.integers(1, 300))
def test_frame_comes_back_however_it_is_cut(data: bytes, piece: int) -> None:
    got = feed(stream.read_frame(stream.Inbox()), data, piece)
    assert got is not None
    again = frame.encode(
        got.header.kind,
        got.message,
        service_id=got.header.service_id,
        method_id=got.header.method_id,
        deadline_ms=got.header.deadline_ms,
        request_id=got.header.request_id,
        payload_length=len(got.payload),
    )
    assert again + bytes(got.payload) == data


@given(st.binary(max_size=200), st.booleans(), st.integers(1, 300))
@settings(max_examples=300)
def test_random_bytes_are_an_error(data: bytes, begins_well: bool, piece: int) -> None:
    data = frame.MAGIC + data if begins_well else data
    with pytest.raises(FsError) as caught:
        feed(stream.read_reply(stream.Inbox(), 1, common_pb2.Error, None), data, piece)
    assert caught.value.kind in BAD
    if not data:
        assert feed(stream.read_frame(stream.Inbox()), data) is None
        return
    with pytest.raises(FsError) as caught:
        feed(stream.read_frame(stream.Inbox()), data, piece)
    assert caught.value.kind in BAD


@given(frames, st.data())
@settings(max_examples=300)
def test_flipped_bit_is_an_error_or_in_the_payload(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    message_end = 40 + int.from_bytes(data[24:28], "little")
    if bit // 8 >= message_end:
        assert feed(stream.read_frame(stream.Inbox()), bytes(flipped)) is not None
        return
    with pytest.raises(FsError) as caught:
        feed(stream.read_frame(stream.Inbox()), bytes(flipped))
    assert caught.value.kind == Kind.CORRUPT_FRAME


@given(st.dictionaries(st.integers(0, 35), st.binary(min_size=1, max_size=1), max_size=8))
@settings(max_examples=300)
def test_header_with_a_right_checksum_is_valid_or_an_error(change: dict[int, bytes]) -> None:
    header = None
    with suppress(FsError):  # any other exception fails the test
        header = frame.parse_header(header_of(change))
    if header is not None:
        assert header.message_length <= MESSAGE_BYTES_MAX
        assert header.payload_length <= PAYLOAD_BYTES_MAX


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({0: b"GET "}, Kind.CORRUPT_FRAME, "not a luciole peer"),
        ({4: b"\x02"}, Kind.UNIMPLEMENTED, "speaks framed protocol 2, this program 1"),
        ({4: b"\x00"}, Kind.CORRUPT_FRAME, "version 0"),
        ({5: b"\x09"}, Kind.CORRUPT_FRAME, "kind of frame: 9"),
        ({10: b"\x02"}, Kind.CORRUPT_FRAME, "flags 0x2"),
        ({5: b"\x01", 10: b"\x01"}, Kind.CORRUPT_FRAME, "flags 0x1"),
        ({24: (MESSAGE_BYTES_MAX + 1).to_bytes(4, "little")}, Kind.CORRUPT_FRAME, "too large"),
        ({28: (PAYLOAD_BYTES_MAX + 1).to_bytes(4, "little")}, Kind.CORRUPT_FRAME, "too large"),
        ({5: b"\x01", 28: b"\x01"}, Kind.CORRUPT_FRAME, "too large"),
    ],
)
def test_what_is_wrong_is_said(change: dict[int, bytes], kind: Kind, says: str) -> None:
    with pytest.raises(FsError, match=says) as caught:
        frame.parse_header(header_of(change))
    assert caught.value.kind == kind


def test_memory_follows_what_came_not_what_was_announced() -> None:
    head = frame.encode(frame.REQUEST, b"", payload_length=PAYLOAD_BYTES_MAX)
    tracemalloc.start()
    try:
        with pytest.raises(FsError) as caught:
            feed(stream.read_frame(stream.Inbox()), head + bytes(100_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.kind == Kind.CONNECTION_LOST
    assert peak < 4 * stream.STEP_BYTES


def test_bytes_after_a_frame_are_an_error() -> None:
    data = frame.encode(frame.REQUEST, b"abc")
    with pytest.raises(FsError, match="3 bytes follow"):
        feed(stream.read_frame(stream.Inbox()), data + b"xyz")


def test_text_that_is_no_unicode_travels() -> None:
    error = FsError(Kind.NOT_FOUND, "no such file", b"/a\xff".decode("utf-8", "surrogateescape"))
    data = frame.encode_error(7, error)
    got = feed(stream.read_reply(stream.Inbox(), 7, common_pb2.Empty, None), data)
    assert isinstance(got, FsError)
    assert got.kind == Kind.NOT_FOUND
    assert got.subject == "/a\\udcff"


def test_reply_to_another_request_is_an_error() -> None:
    data = frame.encode(frame.REPLY, b"", request_id=8)
    with pytest.raises(FsError, match="another request"):
        feed(stream.read_reply(stream.Inbox(), 7, common_pb2.Empty, None), data)


@given(
    st.lists(st.integers(0, 50), max_size=6), st.integers(0, 100), st.integers(1, 1000), st.data()
)
def test_payload_fills_any_buffers_in_order(
    sizes: list[int], message: int, piece: int, draw: st.DataObject
) -> None:
    payload = draw.draw(st.binary(min_size=sum(sizes), max_size=sum(sizes)))
    rooms = [bytearray(size) for size in sizes]
    text = common_pb2.Hello(name="x" * message)
    data = (
        frame.encode(
            frame.REPLY, text.SerializeToString(), request_id=7, payload_length=len(payload)
        )
        + payload
    )
    reader = stream.read_reply(
        stream.Inbox(), 7, common_pb2.Hello, lambda _: [memoryview(room) for room in rooms]
    )
    assert feed(reader, data, piece) == text
    assert b"".join(rooms) == payload
