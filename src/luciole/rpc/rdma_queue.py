"""One end of a reliable connected queue pair: small messages both ways, and bulk one-sidedly.

Layer: shell. It is set up over a TCP connection, which stays: a peer that is killed, or hangs up,
is noticed there at once, and what does not fit into a message goes that way. One thread uses a
queue pair at a time. Two receives are always posted, and one frame is under way in each direction,
so a peer that keeps the protocol never finds none.

Bytes that are written to the peer leave with the message that tells of them, in one call to the
card, and one completion tells of both.

Waiting polls for completions for a moment, then arms the completion channel and sleeps on it and on
the TCP connection until the deadline. A completion that failed, like a connection that ended, is
a ConnectionError; the queue pair is then to be closed. Closing it returns when the card no longer
touches memory for it.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer
from luciole.rpc.rdma_device import Device, Source
from luciole.rpc.rdma_memory import registered_memory
from luciole.rpc.rdma_table import Card

FRAME_BYTES = 16 * 1024
_RECEIVES = 2
_SEND, _BULK = _RECEIVES, _RECEIVES + 1  # work request ids; the lower ones number receives
_MESSAGE = -1  # what is waited for, if no request is
_CHAIN = 64  # bulk requests handed over at once; the last one tells when all are done
_CHAINS = 2
# On one processor the peer runs only while this thread does not.
_SPIN_S = 30e-6 if (os.cpu_count() or 1) > 1 else 0.0
_LOOK_S = 0.5
_TIMEOUT = 14  # 4.096 us * 2**14 = 67 ms without an acknowledgement
_RETRIES = 6  # 7 is "for ever" to Soft-RoCE
_RECEIVER_NOT_READY_TIMER = 12  # 0.64 ms
_REQUESTS_MAX = 64  # kept to be posted again
_QUIET = 32  # messages of a caller in a row that do not report themselves: they fill the queue


class Bulk(NamedTuple):
    """One transfer between memory of this process and the peer's."""

    local: int
    length: int
    local_key: int
    remote: int
    remote_key: int


class _Local(NamedTuple):
    """What a request says of this end."""

    kind: int
    opcode: int
    address: int
    length: int
    key: int
    flags: int


class Closable(Protocol):
    """What a queue pair keeps."""

    def close(self) -> None:
        """Ends it."""


class QueuePair:
    """One end.

    Args:
        device, source: as chosen.
        connected: the TCP connection to the peer.
        reachable: whether the peer may read and write what this process has registered for it.
        managed: rdma_cm connects it (`begin`, `join`), else cards do (`card`, `connect`).

    Raises FsError UNAVAILABLE or NO_SPACE.
    """

    def __init__(
        self, device: Device, source: Source, connected: socket.socket, *, reachable: bool,
        managed: bool = False,
    ) -> None:
        self._device = device
        self._source = source
        self._verbs = device.verbs
        self._closing: list[Any] = []
        self._broken = False
        self._outstanding = [0] * (_BULK + 1)
        self._arrived: deque[tuple[int, int]] = deque()
        self._requests: dict[_Local, Any] = {}
        self._behind: list[Bulk] = []  # to be written with the next message
        self._asks = reachable
        self._unanswered = 0  # messages that tell nobody when they are done
        self._quiet = 0  # such messages since one that does
        self._sequence = int.from_bytes(os.urandom(3), "little")
        e = self._verbs.e
        self._access = e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_WRITE if reachable else 0
        try:
            self._channel, self._file = device.channel()
            self._closing.append(self._channel)
            size = (_RECEIVES + 1) * FRAME_BYTES
            self._memory, self._registered = registered_memory(device, size, remote=False)
            self._closing.append(self._registered)
            self._address = self._registered.address
            self._make(managed)
        except BaseException as failure:
            self.close()
            if isinstance(failure, FsError) or not isinstance(failure, Exception):
                raise
            raise FsError(
                Kind.UNAVAILABLE, f"{source}: no queue pair: {failure}", device.name
            ) from failure
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._poll.register(connected, select.POLLIN)
        self._poll_card = select.poll()
        self._poll_card.register(self._file, select.POLLIN)

    def _make(self, managed: bool) -> None:
        verbs, e, key = self._verbs, self._verbs.e, self._registered.local_key
        depth = _CHAIN * _CHAINS + 2
        self._completions = verbs.cq.CQ(
            self._device.context, depth + _RECEIVES, None, self._channel, 0
        )
        self._closing.append(self._completions)
        room = verbs.qp.QPCap(max_send_wr=depth, max_recv_wr=_RECEIVES)
        # Else every request reports itself, and a chain would seem done with its first.
        wanted = verbs.qp.QPInitAttr(
            qp_type=e.IBV_QPT_RC,
            scq=self._completions,
            rcq=self._completions,
            cap=room,
            sq_sig_all=0,
        )
        attributes = verbs.qp.QPAttr(port_num=self._source.port)
        attributes.qp_access_flags = self._access
        # Who connects it readies it, too: cards can do so at once.
        self._pair = verbs.qp.QP(self._device.domain, wanted, None if managed else attributes)
        self._closing.append(self._pair)
        self._receives = [
            verbs.wr.RecvWR(
                wr_id=slot,
                num_sge=1,
                sg=[verbs.wr.SGE(self._address + slot * FRAME_BYTES, FRAME_BYTES, key)],
            )
            for slot in range(_RECEIVES)
        ]
        if not managed:
            self._post_receives()
        self._outgoing = self._memory[_RECEIVES * FRAME_BYTES :]
        self._outgoing_address = self._address + _RECEIVES * FRAME_BYTES
        self._send_code, self._write_code = e.IBV_WR_SEND, e.IBV_WR_RDMA_WRITE
        self._signaled = int(e.IBV_SEND_SIGNALED)
        self._solicited = int(e.IBV_SEND_SOLICITED)

    def _post_receives(self) -> None:
        for request in self._receives:
            self._pair.post_recv(request)

    def keep(self, other: Closable) -> None:
        """Closes `other` when it is closed itself, before anything of its own."""
        self._closing.append(other)

    @property
    def number(self) -> int:
        """By which its device knows it."""
        return int(self._pair.qp_num)

    def begin(self, identifier: Any) -> None:
        """Lets an identifier of rdma_cm make it ready to be connected."""
        e = self._verbs.e
        attributes, mask = identifier.init_qp_attr(e.IBV_QPS_INIT)
        attributes.qp_access_flags = self._access
        self._pair.modify(attributes, mask)
        self._post_receives()

    def join(self, identifier: Any, reads: int) -> None:
        """Makes it ready to send and receive, as an identifier of rdma_cm says whereto.

        Args:
            identifier: of a connection that the peer wants, or has answered.
            reads: how many this end may have under way.
        """
        if self._device.iwarp:
            return  # the device does it when the connection is accepted
        e = self._verbs.e
        attributes, mask = identifier.init_qp_attr(e.IBV_QPS_RTR)
        attributes.min_rnr_timer = _RECEIVER_NOT_READY_TIMER
        self._pair.modify(attributes, mask)
        attributes, mask = identifier.init_qp_attr(e.IBV_QPS_RTS)
        attributes.max_rd_atomic = reads
        attributes.timeout, attributes.retry_cnt = _TIMEOUT, _RETRIES
        attributes.rnr_retry = _RETRIES
        self._pair.modify(attributes, mask)

    def card(self) -> Card:
        """How the peer reaches this end."""
        source = self._source
        return Card(
            self._pair.qp_num,
            self._sequence,
            source.local_identifier,
            source.mtu,
            source.by_gid,
            source.gid,
        )

    def connect(self, peer: Card) -> None:
        """Makes it ready to send and receive. Raises FsError UNAVAILABLE."""
        verbs = self._verbs
        source = self._source
        try:
            if peer.by_gid != source.by_gid:
                raise ValueError("one end is Ethernet and the other is not")
            a = verbs.qp.QPAttr(port_num=source.port)
            a.qp_access_flags = self._access
            a.dest_qp_num = peer.number
            a.path_mtu = min(source.mtu, peer.mtu)
            a.rq_psn, a.sq_psn = peer.sequence, self._sequence
            a.max_rd_atomic = a.max_dest_rd_atomic = self._device.reads
            a.timeout, a.retry_cnt, a.rnr_retry = _TIMEOUT, _RETRIES, _RETRIES
            a.min_rnr_timer = _RECEIVER_NOT_READY_TIMER
            if peer.by_gid:
                text = ":".join(peer.gid[i : i + 2].hex() for i in range(0, 16, 2))
                route = verbs.addr.GlobalRoute(
                    dgid=verbs.addr.GID(text), sgid_index=source.gid_index
                )
                a.ah_attr = verbs.addr.AHAttr(gr=route, is_global=1, port_num=source.port)
            else:
                a.ah_attr = verbs.addr.AHAttr(
                    dlid=peer.local_identifier, is_global=0, port_num=source.port
                )
            self._pair.to_rts(a)
        except Exception as failure:
            raise FsError(
                Kind.UNAVAILABLE, f"{source}: cannot connect a queue pair: {failure}"
            ) from failure

    # Messages.

    def send(self, buffers: Sequence[Buffer], deadline: float) -> None:
        """Sends buffers of at most FRAME_BYTES together, behind all bulk that was begun.

        A caller's messages are answered, and an answer says that the message arrived; so most of
        them need not report themselves. A card that missed an acknowledgement may send one again
        when its place holds the next one already: the peer's card drops what it has had.

        Raises TimeoutError or ConnectionError.
        """
        self._settle(_SEND, 0, deadline)
        end = 0
        for buffer in buffers:
            begin, end = end, end + len(buffer)
            self._outgoing[begin:end] = buffer
        quiet = self._asks and not self._behind and self._quiet < _QUIET
        request = self._request(_Local(
            _SEND, self._send_code, self._outgoing_address, end, self._registered.local_key,
            self._solicited if quiet else self._solicited | self._signaled))
        if quiet:
            self._post(request)
            self._quiet += 1
            self._unanswered += 1
            return
        self._quiet = 0
        pieces, self._behind = self._behind, []
        chain = self._chain(self._write_code, pieces, request)
        self._post(chain[-1])
        self._outstanding[_SEND] += 1

    def take(self) -> memoryview:
        """The message that `wait` found. It is valid until `give_back`."""
        slot, length = self._arrived[0]
        return self._memory[slot * FRAME_BYTES :][:length]

    def give_back(self) -> None:
        """The message that was taken is done with."""
        slot, _ = self._arrived.popleft()
        try:
            self._pair.post_recv(self._receives[slot])
        except Exception as failure:
            raise self._failed(failure) from failure

    def wait(self, deadline: float) -> bool:
        """Waits for a message (True), or for something on the TCP connection (False).

        Raises TimeoutError or ConnectionError.
        """
        while not self._arrived:
            if not self._sleep(_MESSAGE, 0, deadline):
                return False
        return True

    # Bulk.

    def read(self, pieces: Sequence[Bulk], deadline: float) -> None:
        """Reads from the peer's memory; done when it returns. Raises as `send`."""
        self._transfer(self._verbs.e.IBV_WR_RDMA_READ, pieces, deadline)
        self._settle(_BULK, 0, deadline)

    def write(self, pieces: Sequence[Bulk], deadline: float) -> None:
        """Writes to the peer's memory with the next message: it is there before that arrives.

        The local memory may be used again after `flush`. Raises as `send`.
        """
        last = max(0, len(pieces) - _CHAIN)
        self._transfer(self._write_code, pieces[:last], deadline)
        self._behind += pieces[last:]

    def flush(self, deadline: float) -> None:
        """Waits until the card is done with everything. Raises as `send`."""
        if self._behind:
            pieces, self._behind = self._behind, []
            self._transfer(self._write_code, pieces, deadline)
        self._settle(_BULK, 0, deadline)
        self._settle(_SEND, 0, deadline)

    def _transfer(self, opcode: int, pieces: Sequence[Bulk], deadline: float) -> None:
        for begin in range(0, len(pieces), _CHAIN):
            self._settle(_BULK, _CHAINS - 1, deadline)
            chain = self._chain(opcode, pieces[begin : begin + _CHAIN], None)
            self._post(chain[-1])
            self._outstanding[_BULK] += 1

    def _chain(self, opcode: int, pieces: Sequence[Bulk], message: Any) -> list[Any]:
        """Requests, last one first; it is to be kept until the last of the list is posted.

        They end with `message`, which tells when all are done; else the last piece does.
        """
        chain: list[Any] = [] if message is None else [message]  # none keeps the next one alive
        for piece in reversed(pieces):
            local = _Local(
                _BULK, opcode, piece.local, piece.length, piece.local_key,
                0 if chain else self._signaled)
            # One that stands alone may be posted again: what differs is set each time.
            request = self._request(local) if len(pieces) == 1 else self._make_request(local)
            request.set_wr_rdma(piece.remote_key, piece.remote)
            if chain:
                request.next_wr = chain[-1]
            chain.append(request)
        return chain

    def _request(self, local: _Local) -> Any:
        """A request for the card; the one of before if there was one.

        To make one costs more than all else of a message, and posting copies it.
        """
        known = self._requests.get(local)
        if known is None:
            if len(self._requests) >= _REQUESTS_MAX:
                self._requests.clear()
            known = self._requests[local] = self._make_request(local)
        return known

    def _make_request(self, local: _Local) -> Any:
        element = self._verbs.wr.SGE(local.address, local.length, local.key)
        return self._verbs.wr.SendWR(
            wr_id=local.kind, num_sge=1, sg=[element], opcode=local.opcode, send_flags=local.flags)

    # Completions.

    def _post(self, request: object) -> None:
        if self._broken:
            raise ConnectionResetError(f"{self._source}: the queue pair is broken")
        try:
            self._pair.post_send(request)
        except Exception as failure:
            raise self._failed(failure) from failure

    def _failed(self, failure: Exception) -> ConnectionAbortedError:
        return ConnectionAbortedError(f"{self._source}: {failure}")

    def _reap(self) -> None:
        try:
            count, completions = self._completions.poll(8)
        except Exception as failure:
            raise self._failed(failure) from failure
        if not count:
            return
        for completion in completions:
            status, kind = completion.status, completion.wr_id
            if status:
                self._broken = True
                name = self._verbs.e.ibv_wc_status(status).name
                raise ConnectionResetError(f"{self._source}: {name}")
            if kind < _RECEIVES:
                self._unanswered = 0
                self._arrived.append((kind, completion.byte_len))
            else:
                self._outstanding[kind] -= 1

    def _settle(self, kind: int, limit: int, deadline: float) -> None:
        """Waits until at most `limit` posts of a kind are outstanding.

        A peer that is gone fails them within seconds, so the TCP connection is not asked.
        """
        while self._outstanding[kind] > limit:
            self._sleep(kind, limit, deadline)

    def _done(self, kind: int, limit: int) -> bool:
        return bool(self._arrived) if kind == _MESSAGE else self._outstanding[kind] <= limit

    def _sleep(self, kind: int, limit: int, deadline: float) -> bool:
        """Waits until a message is there, or at most `limit` posts of another kind outstanding, or
        a completion came; False if the socket has something instead."""
        if _SPIN_S and self._spin(kind, limit):
            return True
        # Whoever waits for a message is not to be woken when his own was received. Soft-iWARP takes
        # that too far, and rings for no message at all.
        waits = kind == _MESSAGE
        try:
            self._completions.req_notify(waits and not self._device.iwarp)
        except Exception as failure:
            raise self._failed(failure) from failure
        self._reap()  # what came before the channel was armed rings no bell
        if self._done(kind, limit):
            return True
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("deadline passed")
        # Soft-RoCE rings no bell for the failure of what was sent to a waiter for messages.
        if remaining > _LOOK_S and (self._unanswered or any(self._outstanding)):
            remaining = _LOOK_S
        poll = self._poll if waits else self._poll_card
        woken = poll.poll(remaining * 1000 + 1)
        for file, _ in woken:
            if file == self._file:
                self._take_event()
                self._reap()
                return True
        self._reap()  # the last words of a peer that then hung up
        return not woken or self._done(kind, limit)

    def _spin(self, kind: int, limit: int) -> bool:
        """As `_sleep`, for a moment and without sleeping; False if nothing came."""
        spin_until = time.monotonic() + _SPIN_S
        while True:
            self._reap()
            if self._done(kind, limit):
                return True
            if time.monotonic() >= spin_until:
                return False
            os.sched_yield()

    def _take_event(self) -> None:
        try:
            self._channel.get_cq_event(self._completions)
            self._completions.ack_events(1)
        except Exception as failure:
            raise self._failed(failure) from failure

    def linger(self, seconds: float) -> None:
        """Gives what was sent some time to arrive, unless it is broken."""
        if self._broken:
            return
        with suppress(OSError):
            self.flush(time.monotonic() + seconds)

    def close(self) -> None:
        """Ends it. When it returns the card touches no memory for it any more. Idempotent."""
        while self._closing:
            with suppress(Exception):  # a card that was pulled out has let go of everything
                self._closing.pop().close()
