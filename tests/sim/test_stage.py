"""Calls on a stage meet where they wait, and nowhere else, and die with their process."""

from __future__ import annotations

import threading
from pathlib import Path
from random import Random

import pytest
import trio

from luciole.errors import FsError, Kind
from luciole.tests.sim.platter import Platter, SimFiles
from luciole.tests.sim.schedule import run_seeded
from luciole.tests.sim.stage import Stage


def test_calls_take_turns_where_they_wait() -> None:
    told: list[str] = []

    async def main() -> None:
        stage = Stage()

        def work(name: str, seconds: float) -> None:
            for step in range(3):
                told.append(f"{name}{step}")
                stage.wait(seconds)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.run, lambda: work("a", 1.0))
            nursery.start_soon(stage.run, lambda: work("b", 1.6))
        assert trio.current_time() == pytest.approx(4.8)

    run_seeded(main, 1)
    assert sorted(told[:2]) == ["a0", "b0"]
    assert told[2:] == ["a1", "b1", "a2", "b2"]


def test_a_call_returns_or_raises_what_its_work_does() -> None:
    async def main() -> int:
        stage = Stage()

        def fail() -> None:
            raise FsError(Kind.NO_SPACE, "full")

        with pytest.raises(FsError, match="full"):
            await stage.run(fail)
        return await stage.run(lambda: 7)

    assert run_seeded(main, 1) == 7


def test_a_cancelled_call_ends_at_its_wait_and_cleans_up() -> None:
    told: list[str] = []

    async def main() -> None:
        stage = Stage()

        def work() -> None:
            try:
                stage.wait(10.0)
                told.append("went on")
            finally:
                told.append("ended")

        with trio.move_on_after(1.0):
            await stage.run(work)

    run_seeded(main, 1)
    assert told == ["ended"]


def test_a_dead_process_does_not_reach_its_disk() -> None:
    platter = Platter(Random(1))

    async def main() -> None:
        stage = Stage()
        files = SimFiles(platter, stage)
        descriptor = files.open(Path("blocks"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.run, lambda: files.write(descriptor, [memoryview(b"x")], 0))
            await trio.lowlevel.checkpoint()
            stage.dead = True
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()

    run_seeded(main, 1)
    assert platter.files["blocks"].size == 0


def test_no_call_waits_while_its_volume_is_locked() -> None:
    async def main() -> None:
        stage = Stage()
        files = SimFiles(Platter(Random(1)), stage)
        files.guard = threading.Lock()
        descriptor = files.open(Path("blocks"))

        def locked() -> None:
            assert files.guard is not None
            with files.guard:
                files.write(descriptor, [memoryview(b"x")], 0)

        await stage.run(locked)
        assert trio.current_time() == 0

    run_seeded(main, 1)


def test_a_power_loss_takes_what_was_not_synced() -> None:
    platter = Platter(Random(1))
    files = SimFiles(platter, Stage())
    descriptor = files.open(Path("blocks"))
    kept = bytes(range(1, 251)) * 20

    def write(position: int) -> None:
        done = 0
        while done < len(kept):
            done += files.write(descriptor, [memoryview(kept)[done:]], position + done)

    def read(position: int) -> bytes:
        data, done = bytearray(len(kept)), 0
        while (count := files.read(descriptor, [memoryview(data)[done:]], position + done)) > 0:
            done += count
        return bytes(data)

    write(100)
    files.sync(descriptor)
    write(10_000)
    assert read(100) == read(10_000) == kept
    lost = 0
    for _ in range(20):
        platter.lose_power()
        assert read(100) == kept
        lost += read(10_000) != kept
        write(10_000)
    assert lost
