"""RDMA as a payload: what a request says of bytes that do not travel behind it, and set-up cards.

Layer: pure. Over a queue pair a request may carry, in place of its payload, a table of where in the
caller's memory the payload lies and where the reply's parts are wanted (little-endian):

    offset size
     0      4  n, pieces of the request's payload, in order
     4      4  m, rooms for the parts of the reply, in order
     8     16  each: address (8), length (4), remote key (4)

The server reads the pieces before its handler runs and writes part i of the reply into room i
before it sends the reply. Addresses and keys are the caller's own: a wrong one breaks his
connection, in his own network card. Lengths are bounded here, before anything is allocated.

A card tells how to reach one end of a queue pair: number (4), packet sequence number (4), local
identifier (2), MTU as the verbs number it (1), whether addressed by GID (1), GID (16).

Where rdma_cm makes the connection, the caller sends in place of a card `rdcm` and how many reads
he bears at a time (1); the server answers with a port (2), a nonce (16) that is to be shown there,
and behind them the IP address as text.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import NamedTuple

from luciole.errors import FsError, Kind
from luciole.rpc.frame import corrupt
from luciole.rpc.interface import PAYLOAD_BYTES_MAX

PIECES_MAX = 512  # with the header of a frame, the table fits into one SEND
_COUNTS = struct.Struct("<II")
_PIECE = struct.Struct("<QII")
_CARD = struct.Struct("<IIHBB16s")
CARD_BYTES = _CARD.size
_MTU_MIN, _MTU_MAX = 1, 5  # 256 and 4096 bytes
_NUMBER_MAX = 1 << 24
_ASK = struct.Struct("<4sB")
_ASK_MAGIC = b"rdcm"
NONCE_BYTES = 16
_INVITATION = struct.Struct(f"<H{NONCE_BYTES}s")
_ADDRESS_BYTES_MAX = 64


class Piece(NamedTuple):
    """Bytes in the memory of one process that another may reach."""

    address: int
    length: int
    key: int


class Card(NamedTuple):
    """One end of a queue pair."""

    number: int
    sequence: int
    local_identifier: int
    mtu: int
    by_gid: bool
    gid: bytes

    def encode(self) -> bytes:
        """As it travels."""
        return _CARD.pack(*self)


def decode_card(data: bytes) -> Card:
    """The peer's card. Raises FsError CORRUPT_FRAME."""
    if len(data) != _CARD.size:
        raise corrupt(f"a queue pair is told in {_CARD.size} bytes; {len(data)} came")
    number, sequence, local_identifier, mtu, by_gid, gid = _CARD.unpack(data)
    if number >= _NUMBER_MAX or sequence >= _NUMBER_MAX or not _MTU_MIN <= mtu <= _MTU_MAX:
        raise corrupt("a queue pair with impossible numbers")
    return Card(number, sequence, local_identifier, mtu, bool(by_gid), gid)


class Invitation(NamedTuple):
    """Where rdma_cm finds the server's end of a queue pair, and what to show there."""

    port: int
    nonce: bytes
    address: str

    def encode(self) -> bytes:
        """As it travels."""
        return _INVITATION.pack(self.port, self.nonce) + self.address.encode()


def decode_invitation(data: bytes) -> Invitation:
    """The server's invitation. Raises FsError CORRUPT_FRAME."""
    if not _INVITATION.size < len(data) <= _INVITATION.size + _ADDRESS_BYTES_MAX:
        raise corrupt(f"an invitation of {len(data)} bytes")
    port, nonce = _INVITATION.unpack_from(data)
    try:
        address = str(ipaddress.ip_address(data[_INVITATION.size :].decode("ascii")))
    except ValueError as failure:
        raise corrupt(f"an invitation to no address: {failure}") from failure
    if not port:
        raise corrupt("an invitation to no port")
    return Invitation(port, nonce, address)


def encode_ask(reads: int) -> bytes:
    """Asks for an invitation: this end bears so many reads at a time."""
    return _ASK.pack(_ASK_MAGIC, reads)


def asked_reads(data: bytes) -> int:
    """What was asked for with `encode_ask`; 0: it is something else."""
    if len(data) != _ASK.size:
        return 0
    magic, reads = _ASK.unpack(data)
    return int(reads) if magic == _ASK_MAGIC else 0


def encode_table(payload: Sequence[Piece], rooms: Sequence[Piece]) -> bytes:
    """The table of a request."""
    flat = [number for piece in (*payload, *rooms) for number in piece]
    return struct.pack("<II" + "QII" * (len(payload) + len(rooms)), len(payload), len(rooms), *flat)


def decode_table(table: memoryview) -> tuple[list[Piece], list[Piece]]:
    """Pieces and rooms of a request. Raises FsError CORRUPT_FRAME or INVALID_ARGUMENT."""
    if len(table) < _COUNTS.size:
        raise corrupt("a table of pieces is cut short")
    count, rooms = _COUNTS.unpack_from(table)
    if count + rooms > PIECES_MAX or len(table) != _COUNTS.size + (count + rooms) * _PIECE.size:
        raise corrupt(f"{count} + {rooms} pieces in a table of {len(table)} bytes")
    pieces = [Piece(*fields) for fields in _PIECE.iter_unpack(table[_COUNTS.size :])]
    total = sum(piece.length for piece in pieces[:count])
    if total > PAYLOAD_BYTES_MAX:
        raise FsError(Kind.INVALID_ARGUMENT, f"a payload of {total} bytes is too large")
    return pieces[:count], pieces[count:]
