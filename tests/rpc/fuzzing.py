"""Hostile bytes for the framed protocol: `python -m luciole.tests.rpc.fuzzing --inputs 1000000`.

Layer: tests. An input is what one peer sends until it hangs up: frames of every kind, mostly right
but for something, so that they get past the checks before the one that is meant. What must hold of
each: it is understood or refused with an FsError, no buffer grows beyond what was sent, and a table
of pieces leads nowhere but into the memory that was shown. Each input also lies in a ring, behind
positions and lengths that it chooses itself.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.progress import track

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.proto import services, storage_pb2
from luciole.rpc import frame, ring, stream
from luciole.rpc.dispatch import Endpoint
from luciole.rpc.interface import Arena
from luciole.rpc.memory import Region
from luciole.rpc.shared import Shown
from luciole.tests.rpc.test_frame import feed

SHOWN_BYTES = 64 * 1024
REQUEST_ID = 7
EXPECTED = {Kind.CORRUPT_FRAME, Kind.UNIMPLEMENTED, Kind.CONNECTION_LOST, Kind.INVALID_ARGUMENT}
# Lengths and numbers at which something changes, or that a naive reader would trust.
_EDGES = [0, 1, 39, 40, 41, 4096, 65535, 65536, (1 << 24) - 1, 1 << 26, (1 << 31) - 1, 1 << 31,
          (1 << 32) - 1]
_HEADER = struct.Struct("<4sBBHHHIQIII")
_METHODS = services.STORAGE.methods


class Inputs:
    """A source of inputs: the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._makers: list[Callable[[], bytes]] = [
            self._noise, self._frame, self._damaged, self._header, self._table, self._reply]

    def next(self) -> bytes:
        """One input."""
        return self._chance.choice(self._makers)()

    def _edge(self, bits: int) -> int:
        chance = self._chance
        value = chance.choice(_EDGES) if chance.random() < 0.8 else chance.getrandbits(bits)
        return value & ((1 << bits) - 1)

    def _noise(self) -> bytes:
        data = self._chance.randbytes(self._chance.randrange(120))
        return frame.MAGIC + data if self._chance.random() < 0.5 else data

    def _message(self) -> bytes:
        chance = self._chance
        request = storage_pb2.ReadRequest()
        for _ in range(chance.randrange(4)):
            io = request.ios.add(
                chunk_id=chance.randbytes(chance.choice([0, 16, 17])), offset=self._edge(32),
                length=self._edge(32))
            io.chain.chain_id, io.chain.version = self._edge(32), self._edge(64)
        data = bytearray(request.SerializeToString())
        if data and chance.random() < 0.5:
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data)

    def _frame(self, flags: int = 0, payload: bytes = b"") -> bytes:
        chance = self._chance
        method = chance.choice(_METHODS)
        kind = frame.REQUEST if flags else chance.choice(list(frame.FrameKind))
        return frame.encode(
            kind, self._message(), service_id=method.service_id,
            method_id=method.method_id if chance.random() < 0.9 else self._edge(16),
            deadline_ms=self._edge(32), request_id=chance.choice([REQUEST_ID, self._edge(64)]),
            payload_length=len(payload), flags=flags) + payload

    def _damaged(self) -> bytes:
        """A frame with bytes changed, cut off, or more behind it."""
        chance = self._chance
        data = bytearray(self._frame(payload=chance.randbytes(chance.randrange(40))))
        how = chance.randrange(3)
        if how == 0:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif how == 1:
            del data[chance.randrange(len(data)):]
        else:
            data += chance.randbytes(chance.randrange(1, 50))
        return bytes(data)

    def _header(self) -> bytes:
        """A header that is sealed as it should be, over anything."""
        chance = self._chance
        body = _HEADER.pack(
            frame.MAGIC, chance.choice([0, 1, 1, 1, 1, 2, 255]), chance.randrange(8),
            self._edge(16), self._edge(16), chance.choice([0, 0, 1, 2, 65535]), self._edge(32),
            self._edge(64), self._edge(32), self._edge(32), self._edge(32))
        sealed = body + crc32c(body).to_bytes(4, "little")
        return sealed + chance.randbytes(chance.randrange(60))

    def _table(self) -> bytes:
        """A request whose bytes lie in shared memory, or beside it."""
        chance = self._chance
        count, rooms = chance.choice([(0, 1), (1, 0), (2, 2), (0, 0)])
        pieces = b"".join(
            struct.pack("<IIQ", chance.choice([0, 0, 0, 1, self._edge(32)]), self._edge(32),
                        chance.choice([0, 4096, SHOWN_BYTES, self._edge(64)]))
            for _ in range(count + rooms))
        if chance.random() < 0.2:
            count, rooms = self._edge(32), self._edge(32)
        table = struct.pack("<II", count, rooms) + pieces
        return self._frame(frame.SHARED, table[: chance.choice([len(table), 3, 8, 20])])

    def _reply(self) -> bytes:
        chance = self._chance
        payload = chance.randbytes(chance.randrange(64))
        return frame.encode(
            frame.REPLY, self._message(), request_id=REQUEST_ID,
            payload_length=len(payload) + chance.choice([0, 0, -1, 1]) if payload else 0,
            flags=chance.choice([0, 0, 1])) + payload


class Target:
    """Both ends of the protocol, with one region shown."""

    def __init__(self) -> None:
        self._region = Region(SHOWN_BYTES)
        self._shown = Shown()
        self._shown.add([_duplicate(self._region)])
        self._endpoints = {method.method_id: Endpoint(method, _unused) for method in _METHODS}
        self.outcomes: Counter[str] = Counter()

    def take(self, data: bytes) -> None:
        """Both ends read it. Raises AssertionError, or whatever should not have been raised."""
        for read in (self._as_server, self._as_client):
            inbox = stream.Inbox()
            try:
                read(inbox, data)
                kind = None
            except FsError as failure:
                kind = failure.kind
            # To a caller the peer may answer an error of any kind.
            assert kind is None or kind in EXPECTED or read == self._as_client, kind
            bound = max(stream.SMALL_BYTES, 2 * len(data) + stream.STEP_BYTES)
            assert len(inbox.view) <= bound, f"{len(inbox.view)} bytes for {len(data)}"
            self.outcomes["understood" if kind is None else Kind.Name(kind)] += 1
        self._in_a_ring(data)

    def _in_a_ring(self, data: bytes) -> None:
        """The input is a record, then what a hostile peer makes of ring and positions."""
        control, memory = bytearray(ring.CONTROL_BYTES), bytearray(ring.RING_BYTES)
        words = ring.Words(memoryview(control), memoryview(memory))
        producer, consumer = ring.Producer(words), ring.Consumer(words)
        taken = 0
        if producer.put(data):
            record = consumer.take()
            assert record == data
            taken = words.control[ring.HEAD]
        numbers = data.ljust(40, b"\0")
        at = taken % ring.RING_BYTES
        memory[at : at + len(data)] = data[: ring.RING_BYTES - at]
        short = at + ring.WORD if data[-1:] < b"\x80" else 0
        memory[short : short + 3] = numbers[37:40]  # a length that may be one
        words.control[ring.TAIL] = taken + int.from_bytes(numbers[20:22], "little") % 4096 * 8
        if data[:1] == b"\xff":
            words.control[ring.TAIL] = int.from_bytes(numbers[8:16], "little")
        try:
            while consumer.take() is not None:
                assert words.control[ring.HEAD] - taken <= ring.RING_BYTES
        except FsError as failure:
            if failure.kind != Kind.CORRUPT_FRAME:
                raise
            self.outcomes["refused in a ring"] += 1

    def _as_server(self, inbox: stream.Inbox, data: bytes) -> None:
        got = feed(stream.read_frame(inbox), data)
        if got is None or got.header.kind != frame.REQUEST:
            return
        if got.header.flags:
            payload, rooms = self._shown.resolve(got.payload, Arena())
            assert len(payload) <= 2 * SHOWN_BYTES
            assert all(len(room) <= SHOWN_BYTES for room in rooms)
        endpoint = self._endpoints.get(got.header.method_id)
        if endpoint is not None:
            endpoint.parse(got.message)

    def _as_client(self, inbox: stream.Inbox, data: bytes) -> None:
        room = memoryview(bytearray(64))

        def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
            return [room[: min(64, len(data) % 64)]]

        feed(stream.read_reply(inbox, REQUEST_ID, storage_pb2.ReadReply, sink), data)

    def close(self) -> None:
        """Gives the memory back."""
        self._region.close()


def _duplicate(region: Region) -> int:
    return os.dup(region.file)


async def _unused(*_: object) -> storage_pb2.ReadReply:
    raise AssertionError("requests are parsed here, not answered")


def main() -> int:
    """Runs from the command line. Returns 1 at the first input that does what it should not."""
    parser = argparse.ArgumentParser(prog="python -m luciole.tests.rpc.fuzzing")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    inputs, target = Inputs(options.seed), Target()
    for number in track(range(options.inputs), console=Console(stderr=True)):
        data = inputs.next()
        try:
            target.take(data)
        except BaseException:
            print(f"input {number} of seed {options.seed}: {data.hex()}")
            raise
    print(f"{options.inputs} inputs, read by both ends: "
          + ", ".join(f"{count} {name}" for name, count in target.outcomes.most_common()))
    target.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
