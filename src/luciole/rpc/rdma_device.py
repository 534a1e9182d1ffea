"""Which RDMA device, port and address a connection uses, and the protection domain of this process.

Layer: shell; the only module that knows that pyverbs may be missing, old or new. A device is opened
once per process and kept. Chosen is the address (GID) whose IPv4 address is the one that the TCP
connection to the peer leaves from: the kernel's own answer to which port routes there. Else it is
the first RoCE v2 address of an active port, or the port of an InfiniBand device. An iWARP device is
chosen if that IPv4 address is its own, as rdma_cm says. Whatever is wrong is an FsError UNAVAILABLE
that says what; callers take TCP then.

Invariant: one lock guards what is open, and the making of completion channels.
"""

from __future__ import annotations

import atexit
import importlib
import ipaddress
import os
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from luciole.config import RdmaSetup
from luciole.errors import FsError, Kind
from luciole.rpc.rdma_cm import device_at

_EVENT_FILE = "anon_inode:[infinibandevent]"
_GIDS_MAX = 256
_READS_MAX = 16
_SOFT_IWARP = 0x626D74  # the vendor that it names
_ERA_OLD, _ERA_NEW = "pyverbs.enums", "pyverbs.libibverbs_enums"


class Settings(NamedTuple):
    """What the configuration says of the device; empty, 0 and -1: choose."""

    device: str = ""
    port: int = 0
    gid_index: int = -1
    setup: RdmaSetup = "auto"


class Source(NamedTuple):
    """Where packets leave from."""

    device: str
    port: int
    gid_index: int
    gid: bytes
    by_gid: bool
    local_identifier: int
    mtu: int
    ipv4: str

    def __str__(self) -> str:
        where = f"{self.device} port {self.port}"
        return f"{where} gid {self.gid_index} {self.ipv4}".rstrip() if self.by_gid else where


class Verbs:
    """pyverbs: its modules, and its enumerations, which moved between versions.

    Raises FsError UNAVAILABLE.
    """

    def __init__(self) -> None:
        try:
            # The library gives no types: these are its modules as they are.
            self.device: Any = importlib.import_module("pyverbs.device")
            self.addr: Any = importlib.import_module("pyverbs.addr")
            self.cq: Any = importlib.import_module("pyverbs.cq")
            self.mr: Any = importlib.import_module("pyverbs.mr")
            self.pd: Any = importlib.import_module("pyverbs.pd")
            self.qp: Any = importlib.import_module("pyverbs.qp")
            self.wr: Any = importlib.import_module("pyverbs.wr")
            try:
                self.e: Any = importlib.import_module(_ERA_OLD)
            except ModuleNotFoundError:
                self.e = importlib.import_module(_ERA_NEW)
        except ImportError as failure:
            raise FsError(
                Kind.UNAVAILABLE,
                f"pyverbs is not to be had ({failure}): install luciole[rdma] or python3-pyverbs",
            ) from failure


class Device:
    """An open device: its context and the protection domain of this process."""

    def __init__(self, verbs: Verbs, name: str, transport: int) -> None:
        self.verbs = verbs
        self.name = name
        self.iwarp = transport == int(verbs.e.IBV_TRANSPORT_IWARP)
        try:
            self.context = verbs.device.Context(name=name)
            self.domain = verbs.pd.PD(self.context)
            known = self.context.query_device()
            # Its driver makes a TCP connection inside the call that asks for one.
            self.connects_in_call = self.iwarp and int(known.vendor_id) == _SOFT_IWARP
            # How many reads one queue pair bears at a time, both ways.
            self.reads = min(
                _READS_MAX, int(known.max_qp_rd_atom), int(known.max_qp_init_rd_atom))
        except Exception as failure:  # whatever the driver does
            raise _broken(name, failure) from failure
        self._guard = threading.Lock()

    def sources(self, local_ip: str) -> list[Source]:
        """Everything that packets can leave from, of ports that are active."""
        e = self.verbs.e
        found: list[Source] = []
        ports = self.context.query_device().phys_port_cnt
        if self.iwarp:  # a port has no addresses of its own; rdma_cm knows those of its interface
            here = self.context.query_port(1).state == e.IBV_PORT_ACTIVE
            mine = here and device_at(local_ip) == self.name
            return [Source(self.name, 1, -1, bytes(16), False, 0, 1, local_ip)] if mine else []
        entries = self.context.query_gid_table(_GIDS_MAX)
        for port in range(1, ports + 1):
            state = self.context.query_port(port)
            if state.state != e.IBV_PORT_ACTIVE:
                continue
            ethernet = state.link_layer == e.IBV_LINK_LAYER_ETHERNET
            for entry in entries:
                if entry.port_num != port:
                    continue
                if ethernet and entry.gid_type != e.IBV_GID_TYPE_ROCE_V2:
                    continue
                gid = ipaddress.IPv6Address(
                    str(entry.gid_str() if callable(entry.gid_str) else entry.gid_str)
                )
                found.append(
                    Source(
                        self.name,
                        port,
                        entry.gid_index,
                        gid.packed,
                        ethernet,
                        state.lid,
                        int(state.active_mtu),
                        str(gid.ipv4_mapped or ""),
                    )
                )
        return found

    def channel(self) -> tuple[Any, int]:
        """A completion channel and its descriptor, which pyverbs does not tell.

        No other library of the process makes one meanwhile, or the answer would be ambiguous;
        then it is an error, and TCP. Raises FsError UNAVAILABLE.
        """
        with self._guard:
            before = _event_files()
            try:
                channel = self.verbs.cq.CompChannel(self.context)
            except Exception as failure:
                raise _broken(self.name, failure) from failure
            made = _event_files() - before
        if len(made) != 1:
            channel.close()
            raise FsError(
                Kind.UNAVAILABLE, f"{self.name}: cannot tell its completion channels apart"
            )
        file = made.pop()
        os.set_blocking(file, False)
        return channel, file

    def close(self) -> None:
        """Gives the device up, and what is left of its queue pairs and registrations."""
        with suppress(Exception):
            self.domain.close()
            self.context.close()


def _event_files() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _EVENT_FILE:
                found.add(int(name))
        except OSError:
            continue  # closed meanwhile by another thread
    return found


def _broken(name: str, failure: Exception) -> FsError:
    return FsError(Kind.UNAVAILABLE, f"RDMA device {name} cannot be used: {failure}", name)


_guard = threading.Lock()
_open: dict[str, Device] = {}
_verbs: Verbs | None = None


def devices(wanted: str = "") -> list[Device]:
    """The open devices of this machine, or the one that is wanted. Raises FsError UNAVAILABLE."""
    global _verbs  # noqa: PLW0603 - the library is one per process
    with _guard:
        if _verbs is None:
            _verbs = Verbs()
        try:
            kinds = {_text(device.name): int(device.transport_type)
                     for device in _verbs.device.get_device_list()}
        except Exception:  # pyverbs raises where a kernel has no verbs at all
            kinds = {}
        names = list(kinds)
        if not names:
            raise FsError(Kind.UNAVAILABLE, "this machine has no RDMA device")
        if wanted and wanted not in names:
            raise FsError(
                Kind.UNAVAILABLE,
                f"there is no RDMA device {wanted!r}: set rdma_device to one of {', '.join(names)}",
            )
        reasons = []
        for name in [wanted] if wanted else names:
            if name not in _open:
                try:
                    _open[name] = Device(_verbs, name, kinds[name])
                except FsError as failure:
                    reasons.append(failure.message)
        usable = [_open[name] for name in ([wanted] if wanted else names) if name in _open]
    if not usable:
        raise FsError(Kind.UNAVAILABLE, "; ".join(reasons))
    return usable


def choose(settings: Settings, local_ip: str) -> tuple[Device, Source]:
    """The device and where packets to a peer leave from.

    Args:
        settings: what is not left to choose.
        local_ip: this end's address of the TCP connection to the peer.

    Raises FsError UNAVAILABLE.
    """
    best: tuple[int, Device, Source] | None = None
    for device in devices(settings.device):
        try:
            sources = device.sources(local_ip)
        except Exception as failure:
            raise _broken(device.name, failure) from failure
        for source in sources:
            if settings.port and source.port != settings.port:
                continue
            if settings.gid_index >= 0 and source.gid_index != settings.gid_index:
                continue
            rank = 0 if source.ipv4 == local_ip else 1 if source.ipv4 or not source.by_gid else 2
            if best is None or rank < best[0]:
                best = rank, device, source
    if best is None:
        raise FsError(
            Kind.UNAVAILABLE,
            "no active RDMA port has a RoCE v2 address as configured: see `rdma link`, "
            "rdma_device, rdma_port and rdma_gid_index",
        )
    return best[1], best[2]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _close_all() -> None:
    """In order, while the interpreter is whole: pyverbs stumbles over what is closed later."""
    for device in _open.values():
        device.close()


atexit.register(_close_all)
