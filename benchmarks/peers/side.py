"""One side of a comparison: a filesystem that can be started, mounted anew, measured and removed.

Everything of a side lies in its folder, and every process of it names that folder on its command
line: so CPU time is found without the side's help, and nothing survives `stop`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import cpu_seconds
from luciole.client.fuse.mount_table import find_mount

WAIT_SECONDS = 60.0
COMMAND_SECONDS = 60.0
POLL_SECONDS = 0.05
_Program = str | Path


# Peers have programs in Python, too, which want their own folder on the path.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class SideError(Exception):
    """A side cannot be started; the text says why."""


def tool(name: str) -> str | None:
    """A program's path: beside this interpreter, or where the system keeps them."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name, path=os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def wait_for(what: str, ready: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Waits until `ready()`. Raises SideError that names `what`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SideError(f"{what} was not there within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def ended(pid: int) -> bool:
    """Whether no process has that id any more, or only its exit status is left."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _all_ended(pids: Sequence[int]) -> bool:
    return all(map(ended, pids))


class Side:
    """The base: subclasses say how their filesystem starts, mounts and unmounts."""

    name = ""
    copies = 1
    survives = ""  # what an acknowledged write or change of a name survives, in words
    programs: Sequence[str] = ()
    needs_root = True

    def __init__(self, root: Path) -> None:
        """Args: root: an existing folder; the side makes its own in it."""
        self.root = root / self.name.replace(" ", "-").lower()
        self.place = self.root / "mnt"
        self._children: list[subprocess.Popen[bytes]] = []

    def missing(self) -> str | None:
        """What keeps it from being measured here, or None."""
        absent = [name for name in self.programs if tool(name) is None]
        if absent:
            return f"not installed: {', '.join(absent)}"
        return "it wants root" if self.needs_root and os.getuid() else None

    def start(self) -> None:
        """Brings it up and mounts it. Raises SideError."""
        self.place.mkdir(parents=True)
        self.serve()
        self.mount()
        self._await_mount()
        self.mounted()

    def remount(self) -> None:
        """Mounts it anew, so that nothing is cached on the client's side."""
        self.unmount()
        self._await_gone()
        self.mount()
        self._await_mount()

    def stop(self) -> None:
        """Ends all of its processes and removes its files; never raises for what is gone."""
        try:
            self.unmount()
            self._await_gone()
            self.shut_down()
        except (SideError, OSError, subprocess.SubprocessError) as failure:
            print(f"{self.name}: {failure}", file=sys.stderr)
        if find_mount(self.place) is not None:
            subprocess.run(["umount", "--lazy", str(self.place)], check=False, timeout=30)
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = list(self.processes())
            for pid in pids:
                self._signal(pid, number)
            try:
                wait_for("the end", partial(_all_ended, pids), 10.0)
                break
            except SideError:
                continue
        for child in self._children:
            child.wait(10.0)
        if find_mount(self.place) is None:
            shutil.rmtree(self.root, ignore_errors=True)

    # What differs from one filesystem to another.

    def serve(self) -> None:
        """Starts the servers."""

    def mount(self) -> None:
        """Begins to mount."""

    def mounted(self) -> None:
        """What is to be set on the first mount."""

    def unmount(self) -> None:
        """Begins to unmount."""
        if find_mount(self.place) is not None:
            self.run("umount", self.place)

    def shut_down(self) -> None:
        """Asks the servers to end; what does not is killed."""

    def ready(self) -> bool:
        """Whether the mount can be used."""
        try:
            os.listdir(self.place)
        except OSError:
            return False
        return True

    # What they share.

    def processes(self) -> Mapping[int, str]:
        """Ids and names of the processes whose command line names the side's folder."""
        found = {}
        folder = os.fsencode(self.root)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                line = (entry / "cmdline").read_bytes()
                if folder + b"/" in line:
                    found[int(entry.name)] = self.role(line.decode(errors="replace").split("\0"))
            except OSError:
                continue
        return found

    def role(self, line: list[str]) -> str:
        """What a process with that command line does."""
        return Path(line[0].split()[0]).name

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        used: dict[str, float] = {}
        for pid, role in self.processes().items():
            try:
                used[role] = used.get(role, 0.0) + cpu_seconds(pid)
            except OSError:
                continue
        return used

    def run(self, program: str, *arguments: _Program) -> str:
        """Runs a program to its end; returns what it says. Raises SideError."""
        path = tool(program)
        if path is None:
            raise SideError(f"not installed: {program}")
        done = subprocess.run(
            [path, *map(str, arguments)], check=False, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, env=ENVIRONMENT)
        if done.returncode:
            raise SideError(f"{program} {arguments[0] if arguments else ''} said: "
                            f"{(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def spawn(self, program: str, *arguments: _Program) -> None:
        """Starts a program that stays, with its output in the folder."""
        path = tool(program)
        if path is None:
            raise SideError(f"not installed: {program}")
        with (self.root / f"{Path(path).name}-{len(self._children)}.log").open("wb") as log:
            self._children.append(subprocess.Popen(
                [path, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.root, env=ENVIRONMENT, start_new_session=True))

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    def _await_mount(self) -> None:
        wait_for(f"the mount of {self.name}",
                 lambda: find_mount(self.place) is not None and self.ready())
        os.stat(self.place)

    def _await_gone(self) -> None:
        wait_for(f"the end of the mount of {self.name}", lambda: find_mount(self.place) is None)
