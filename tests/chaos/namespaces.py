"""A network of its own for every process of a cluster: namespaces on one bridge, and cut ways.

Layer: tests. The whole run lives in network and mount namespaces that end with it (`enclosed`), so
nothing here touches the machine's own network. Each place is a namespace with one interface on
the bridge; the run itself (mounts, commands) has the bridge's address and is the place "here".

A way from one place to another is cut by giving the sender a hardware address for the receiver
that nobody has: its packets leave and arrive nowhere, as on a real broken way, and the other
direction is not touched. All neighbour entries are permanent, so that nobody asks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

INSIDE = "LUCIOLE_CHAOS_NAMESPACES"
SUBNET = "10.199.0"
NOWHERE = "02:00:00:00:00:00"
BRIDGE = "luciole0"
HERE = "here"
COMMAND_SECONDS = 20.0
TOOLS = ("ip", "nsenter", "unshare")
_ENCLOSE = ("unshare", "--net", "--mount", "--")

Way = tuple[str, str]


def why_not() -> str:
    """Why this machine cannot do it, or nothing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    # A bridge and a pair of interfaces are what everything here is made of.
    attempt = "ip link add test0 type bridge && ip link add test1 type veth peer name test2"
    done = subprocess.run([*_ENCLOSE, "sh", "-c", attempt], capture_output=True, text=True,
                          check=False, timeout=COMMAND_SECONDS)
    return f"no network namespaces: {done.stderr.strip()}" if done.returncode else ""


def enclose(command: Sequence[str]) -> int:
    """Runs a command in namespaces of its own, which end with its last process."""
    return subprocess.run(
        [*_ENCLOSE, *command], check=False, env=os.environ | {INSIDE: "1"}).returncode


def enclosed() -> bool:
    """Whether this process was started by `enclose`."""
    return INSIDE in os.environ


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}{text}")


class Network:
    """Places that reach each other until they are cut."""

    def __init__(self, root: Path, places: Iterable[str]) -> None:
        assert enclosed(), "never in the machine's own network"
        self._root = root
        self._numbers = {HERE: 1} | {place: number for number, place in enumerate(places, 2)}
        self._cut: set[Way] = set()
        root.mkdir()
        _run(["ip", "-batch", "-"], "\n".join((
            "link set lo up", f"link add {BRIDGE} address {self._hardware(HERE)} type bridge",
            f"addr add {self.address(HERE)}/24 dev {BRIDGE}", f"link set {BRIDGE} up")) + "\n")
        for place in self.places:
            self._make(place)
        for place in self._numbers:
            self._tell(place, [other for other in self._numbers if other != place])

    @property
    def places(self) -> list[str]:
        """All but "here"."""
        return [place for place in self._numbers if place != HERE]

    def address(self, place: str) -> str:
        """The address at which a place is reached."""
        return f"{SUBNET}.{self._numbers[place]}"

    def inside(self, place: str) -> list[str]:
        """What stands before a command that is to run in a place; its process stays the same."""
        return ["nsenter", f"--net={self._root / place}", "--"] if place != HERE else []

    def cut(self, ways: Iterable[Way]) -> None:
        """Nothing goes these ways (from, to) any more."""
        self._change(self._cut | set(ways))

    def join(self) -> None:
        """Everything goes everywhere."""
        self._change(set())

    def close(self) -> None:
        """Lets the namespaces go with their last process; leaves no file."""
        for place in self.places:
            _run(["umount", str(self._root / place)])
            (self._root / place).unlink()
        self._root.rmdir()

    def _change(self, cut: set[Way]) -> None:
        changed, self._cut = cut ^ self._cut, cut
        for place in {sender for sender, _ in changed}:
            self._tell(place, [receiver for sender, receiver in changed if sender == place])

    def _hardware(self, place: str) -> str:
        return f"02:00:00:00:01:{self._numbers[place]:02x}"

    def _make(self, place: str) -> None:
        number = self._numbers[place]
        (self._root / place).touch()
        _run(["unshare", f"--net={self._root / place}", "true"])
        _run([*self.inside(place), "ip", "-batch", "-"], "\n".join((
            "link set lo up",
            f"link add eth0 address {self._hardware(place)} type veth peer name side{number} "
            f"netns {os.getpid()}",
            f"addr add {self.address(place)}/24 dev eth0", "link set eth0 up")) + "\n")
        _run(["ip", "link", "set", f"side{number}", "master", BRIDGE, "up"])

    def _tell(self, place: str, others: Iterable[str]) -> None:
        """Where a place sends what is for others."""
        device = BRIDGE if place == HERE else "eth0"
        lines = [
            f"neigh replace {self.address(other)} dev {device} nud permanent lladdr "
            + (NOWHERE if (place, other) in self._cut else self._hardware(other))
            for other in others]
        _run([*self.inside(place), "ip", "-batch", "-"], "\n".join(lines) + "\n")


def both(first: str, second: str) -> list[Way]:
    """The two ways between two places."""
    return [(first, second), (second, first)]


