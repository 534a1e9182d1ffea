"""RDMA without a device: what a peer may say, and what a machine without verbs does."""

from __future__ import annotations

import random

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2
from luciole.proto.services import META, MetaStub
from luciole.rpc import rdma_device
from luciole.rpc.interface import PAYLOAD_BYTES_MAX
from luciole.rpc.rdma_device import Settings
from luciole.rpc.rdma_table import (
    CARD_BYTES,
    PIECES_MAX,
    Card,
    Invitation,
    Piece,
    asked_reads,
    decode_card,
    decode_invitation,
    decode_table,
    encode_ask,
    encode_table,
)
from luciole.rpc.reach import NodeCaller
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive
from luciole.tests.conformance.rpc import CLUSTER, MetaHandler

PIECES = [Piece(1 << 40, 4096, 7), Piece(4096, 0, 0)]
CARD = Card(0x123456, 0xABCDEF, 9, 5, True, bytes(range(16)))


def test_tables_and_cards_come_back() -> None:
    table = encode_table(PIECES[:1], PIECES)
    assert decode_table(memoryview(table)) == (PIECES[:1], PIECES)
    assert decode_card(CARD.encode()) == CARD


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (b"", Kind.CORRUPT_FRAME),
        (encode_table(PIECES, [])[:-1], Kind.CORRUPT_FRAME),
        (encode_table(PIECES, []) + b"\0", Kind.CORRUPT_FRAME),
        (b"\xff" * 8 + bytes(32), Kind.CORRUPT_FRAME),
        (encode_table([], PIECES[:1] * (PIECES_MAX + 1)), Kind.CORRUPT_FRAME),
        (encode_table([Piece(0, PAYLOAD_BYTES_MAX, 1), Piece(0, 1, 1)], []), Kind.INVALID_ARGUMENT),
        (encode_table([Piece(0, (1 << 32) - 1, 1)] * PIECES_MAX, []), Kind.INVALID_ARGUMENT),
    ],
)
def test_hostile_tables_are_refused(table: bytes, kind: Kind) -> None:
    with pytest.raises(FsError) as caught:
        decode_table(memoryview(table))
    assert caught.value.kind == kind


def test_garbage_is_an_error_or_within_bounds() -> None:
    dice = random.Random(1)
    for _ in range(20_000):
        data = bytearray(encode_table(PIECES, PIECES))
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            pieces, rooms = decode_table(memoryview(data))
        except FsError:
            continue
        assert sum(piece.length for piece in pieces) <= PAYLOAD_BYTES_MAX
        assert len(pieces) + len(rooms) <= PIECES_MAX


@pytest.mark.parametrize(
    "card",
    [b"", CARD.encode() + b"\0", CARD._replace(number=1 << 24).encode(),
     CARD._replace(sequence=1 << 31).encode(), CARD._replace(mtu=0).encode(),
     CARD._replace(mtu=6).encode(), bytes(CARD_BYTES)],
)
def test_impossible_cards_are_refused(card: bytes) -> None:
    with pytest.raises(FsError) as caught:
        decode_card(card)
    assert caught.value.kind == Kind.CORRUPT_FRAME


INVITATION = Invitation(20_123, bytes(range(16)), "10.77.0.1")


def test_asks_and_invitations_come_back_and_are_no_cards() -> None:
    for invitation in (INVITATION, INVITATION._replace(address="fd00::1")):
        assert decode_invitation(invitation.encode()) == invitation
    assert asked_reads(encode_ask(16)) == 16
    assert asked_reads(CARD.encode()) == 0
    assert len(encode_ask(16)) != CARD_BYTES  # servers of before refuse it as a card


@pytest.mark.parametrize(
    "data",
    [b"", INVITATION.encode()[:18], INVITATION._replace(port=0).encode(),
     INVITATION._replace(address="elsewhere").encode(), INVITATION.encode() + b"\xff",
     INVITATION._replace(address="1" * 65).encode()],
)
def test_impossible_invitations_are_refused(data: bytes) -> None:
    with pytest.raises(FsError) as caught:
        decode_invitation(data)
    assert caught.value.kind == Kind.CORRUPT_FRAME


@pytest.mark.parametrize("data", [b"", b"rdcm", b"rdcm\0", b"rdcn\x01", b"rdcm\x01\0"])
def test_what_is_no_ask_is_none(data: bytes) -> None:
    assert asked_reads(data) == 0


def test_a_server_without_a_device_is_reached_over_tcp(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> rdma_device.Verbs:
        raise FsError(Kind.UNAVAILABLE, "this machine has no RDMA device")

    monkeypatch.setattr(rdma_device, "Verbs", missing)
    monkeypatch.setattr(rdma_device, "_verbs", None)
    server = FramedServer(
        ("127.0.0.1", 0), [(META, MetaHandler())], cluster_id=CLUSTER, name="s", rdma=Settings())
    address = ("127.0.0.1", server.start())
    caller = BlockingCaller(address, cluster_id=CLUSTER, rdma=Settings())
    node = NodeCaller(address, "", "auto", cluster_id=CLUSTER, name="test")
    strict = NodeCaller(address, "", "rdma", cluster_id=CLUSTER, name="test")
    request = meta_pb2.LookupRequest(name=b"x")
    try:
        for reached in (caller, caller, node):
            assert drive(MetaStub(reached).lookup(request)).inode.inode_id == 42
        assert capsys.readouterr().out.count("going on over TCP") == 1
        choice = node.choose()
        assert choice.transport == "tcp"
        assert "announces no socket" in choice.why
        assert "this machine has no RDMA device" in choice.why
        with pytest.raises(FsError) as caught:
            drive(MetaStub(strict).lookup(request))
        assert caught.value.kind == Kind.UNAVAILABLE
        assert "transport = rdma" in caught.value.message
    finally:
        for made in (caller, node, strict):
            made.close()
        server.stop(1.0)
