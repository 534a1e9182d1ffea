"""Pid files and stopping: only the process that was meant, and every one that was meant."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from luciole.deploy import processes

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait(10)


def test_a_pid_file_names_its_process(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    record = processes.record_of(sleeper.pid, "/mnt/x")
    assert record is not None
    processes.write_record(tmp_path / "a.pid", record)
    assert processes.running(tmp_path / "a.pid") == record
    assert processes.stop([record], 10.0) == []
    assert processes.running(tmp_path / "a.pid") is None


def test_a_pid_given_to_another_process_is_not_signalled(
    sleeper: subprocess.Popen[bytes],
) -> None:
    record = processes.record_of(sleeper.pid)
    assert record is not None
    earlier = msgspec.structs.replace(record, started_ticks=record.started_ticks - 1)
    other_boot = msgspec.structs.replace(record, boot_id="another")
    for stale in (earlier, other_boot):
        assert not processes.is_alive(stale)
        assert processes.stop([stale], 1.0) == []
        processes.send(stale, signal.SIGKILL)
    assert processes.is_alive(record)
    assert sleeper.poll() is None


def test_who_ignores_sigterm_is_killed_and_named() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        record = processes.record_of(process.pid)
        assert record is not None
        assert processes.stop([record], 0.2) == [record]
        assert process.wait(10) in {0, -signal.SIGKILL}
        assert not processes.is_alive(record)


@pytest.mark.parametrize("content", [b"", b"12", b"{", b'{"pid": "x"}'])
def test_a_damaged_pid_file_names_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pid").write_bytes(content)
    assert processes.running(tmp_path / "a.pid") is None


def test_a_log_is_quoted_from_where_this_run_began(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("an earlier run\n")
    child = processes.spawn(
        "a", [sys.executable, "-c", "print('this run')"], directory=tmp_path, log=log)
    assert child.process.wait(10) == 0
    assert child.last_words() == "this run"
