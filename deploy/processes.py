"""Processes of a local cluster: started in sessions of their own, known by pid files, stopped.

Layer: shell. A pid alone names a process only until it ends, so a pid file also holds when the
process started (field 22 of /proc/PID/stat) and in which boot. Signals go through a pidfd that
was checked against it: a pid that was given to another process is never signalled.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

import luciole
from luciole.boot import boot_id

KILL_SECONDS = 5.0  # for the kernel to end a process that cannot refuse
LOG_TAIL_LINES = 8
LOG_TAIL_BYTES = 16 * 1024


class ProcessRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pid file holds."""

    pid: int
    started_ticks: int  # since boot
    boot_id: str
    mount_point: str = ""  # of a mount's daemon


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, start time in ticks) of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, so fields are counted behind the last one.
    fields = text[text.rindex(")") + 2 :].split(" ")
    return fields[0], int(fields[19])


def record_of(pid: int, mount_point: str = "") -> ProcessRecord | None:
    """The record of a process that runs now."""
    found = _stat(pid)
    return ProcessRecord(pid, found[1], boot_id(), mount_point) if found else None


def is_alive(record: ProcessRecord) -> bool:
    """Whether that very process runs."""
    found = _stat(record.pid)
    return (found is not None and found[0] not in "ZX" and found[1] == record.started_ticks
            and record.boot_id == boot_id())


def read_record(pid_file: Path) -> ProcessRecord | None:
    """What a pid file says, or None when it is not there or was cut short."""
    try:
        return msgspec.json.decode(pid_file.read_bytes(), type=ProcessRecord)
    except (OSError, msgspec.DecodeError):
        return None


def running(pid_file: Path) -> ProcessRecord | None:
    """The process of a pid file if it runs."""
    record = read_record(pid_file)
    return record if record and is_alive(record) else None


def write_record(pid_file: Path, record: ProcessRecord) -> None:
    """Writes a pid file whole: a reader sees the old one or the new one."""
    scratch = pid_file.with_name(f"{pid_file.name}.new")
    scratch.write_bytes(msgspec.json.encode(record))
    scratch.replace(pid_file)


def luciole_command(*arguments: str) -> list[str]:
    """The command line of this same program with other arguments."""
    return [sys.executable, "-P", "-m", "luciole.deploy", *arguments]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, with this very package found first wherever the child's directory is."""
    package = str(Path(luciole.__file__).absolute().parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    return dict(os.environ) | dict(extra) | {
        "PYTHONPATH": os.pathsep.join(filter(None, (package, inherited)))}


class Child:
    """A process started here, and where its log of this run begins."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, begin: int) -> None:
        self.name = name
        self.process = process
        self.log = log
        self._begin = begin

    def ended(self) -> int | None:
        """Its exit status once it ended (reaping it), or None."""
        return self.process.poll()

    def last_words(self) -> str:
        """The last lines that it logged in this run."""
        return tail(self.log, self._begin)


def tail(log: Path, begin: int = 0) -> str:
    """The last lines of a log, none from before the position `begin` (bytes)."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(begin, end - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


def spawn(
    name: str,
    command: Sequence[str],
    *,
    directory: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Starts a process that outlives its parent: own session, no input, output to its log."""
    with log.open("ab") as output:
        begin = output.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            list(command), cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, env=_environment(environment or {}))
    return Child(name, process, log, begin)


@contextmanager
def _pidfd(record: ProcessRecord) -> Iterator[int | None]:
    """A descriptor of that very process; None when it has ended."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # The descriptor pins the process, so what is checked now stays true.
        yield descriptor if is_alive(record) else None
    finally:
        os.close(descriptor)


def _wait_end(descriptor: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0, int(seconds * 1000))))


def _reap(pid: int) -> None:
    # Only our own children can be reaped; the others belong to whoever adopted them.
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_end(record: ProcessRecord, seconds: float) -> bool:
    """Waits until a process has ended, at most `seconds`; returns whether it has."""
    with _pidfd(record) as descriptor:
        ended = descriptor is None or _wait_end(descriptor, seconds)
    if ended:
        _reap(record.pid)
    return ended


def send(record: ProcessRecord, number: signal.Signals) -> None:
    """Signals that very process, if it still runs."""
    with _pidfd(record) as descriptor, suppress(ProcessLookupError):
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)


def stop(records: Sequence[ProcessRecord], seconds: float) -> list[ProcessRecord]:
    """Ends processes side by side: SIGTERM, and SIGKILL after `seconds` for all together.

    Returns those that had to be killed.
    """
    deadline = time.monotonic() + seconds
    for record in records:
        send(record, signal.SIGTERM)
    killed = []
    for record in records:
        if not wait_end(record, deadline - time.monotonic()):
            send(record, signal.SIGKILL)
            wait_end(record, KILL_SECONDS)
            killed.append(record)
    return killed
