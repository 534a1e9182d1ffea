"""The native client against a real cluster, over shared memory and over TCP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import luciole
from luciole.client.native.file import File
from luciole.client.native.filesystem import FileSystem, Stat
from luciole.client.native.ring import Completion
from luciole.client.native.trio_face import TrioFileSystem
from luciole.client.remote.meta import MetaClient
from luciole.deploy import processes
from luciole.errors import FsError, Kind
from luciole.tests.integration.cluster import Cluster

pytestmark = pytest.mark.mount
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("native"))
    try:
        made.up("--nodes", "2", "--targets-per-node", "2")
        yield made
    finally:
        made.destroy()


@pytest.fixture(params=["shm", "tcp"])
def fs(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    with luciole.connect(cluster.directory.path, transport=request.param) as fs:
        fs.mkdir(f"/{request.node.name}")
        yield fs


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}"


def pattern(size: int, seed: int = 0) -> bytes:
    return bytes((index * 7 + seed) % 251 for index in range(251)) * (size // 251 + 1)


def test_names(fs: FileSystem, place: str) -> None:
    fs.mkdir(f"{place}/a")
    with fs.open(f"{place}/a/file", "x") as file:
        file.write(b"hello", 0)
    assert fs.listdir(place) == ["a"]
    assert fs.stat(f"{place}/a").is_directory
    assert fs.stat(f"{place}/a/file").size == 5
    fs.rename(f"{place}/a/file", f"{place}/b")
    assert fs.exists(f"{place}/b")
    assert not fs.exists(f"{place}/a/file")
    for wrong, mode, kind in (("nothing", "r", Kind.NOT_FOUND), ("b", "x", Kind.EXISTS),
                              ("b", "rw", Kind.INVALID_ARGUMENT)):
        with pytest.raises(FsError) as caught:
            fs.open(f"{place}/{wrong}", mode)  # type: ignore[arg-type]
        assert caught.value.kind == kind
    fs.remove(f"{place}/b")
    fs.remove(f"{place}/a")
    assert fs.listdir(place) == []


def test_many_paths_cost_a_request_for_each_directory(
    fs: FileSystem, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"{place}/{number}": pattern(number)[:number] for number in (0, 3, 5000, 70_000)}
    for path, content in contents.items():
        with fs.open(path, "x") as file:
            file.write(content, 0)
    fs.mkdir(f"{place}/folder")
    paths = [*contents, f"{place}/none", f"{place}/none/below", f"{place}/folder", "/"]
    asked: list[str] = []
    ask = MetaClient.ask

    async def counted(self: MetaClient, method: Any, request: Any) -> Any:
        asked.append(method.handler)
        return await ask(self, method, request)

    monkeypatch.setattr(MetaClient, "ask", counted)
    found = fs.stat_many(paths)
    assert asked.count("lookup_many") == 1
    sizes = [one.size for one in found[: len(contents)] if isinstance(one, Stat)]
    assert sizes == list(map(len, contents.values()))
    kinds = [one.kind for one in found if isinstance(one, FsError)]
    assert kinds == [Kind.NOT_FOUND, Kind.NOT_FOUND]
    assert [one.is_directory for one in found[-2:] if isinstance(one, Stat)] == [True, True]
    assert found[-1] == fs.stat("/")
    asked.clear()
    opened = fs.open_many([*contents, f"{place}/none"])
    assert asked.count("lookup_many") == 1
    assert "stat" not in asked[asked.index("lookup_many") :]
    failure = opened.pop()
    assert isinstance(failure, FsError)
    assert failure.kind == Kind.NOT_FOUND
    files = [file for file in opened if isinstance(file, File)]
    views = [bytearray(80_000) for _ in files]
    assert fs.read_many(list(zip(files, [0] * len(files), views, strict=True))) == sizes
    for view, size, content in zip(views, sizes, contents.values(), strict=True):
        assert view[:size] == content
    for file in files:
        file.close()


def test_batches_with_short_reads_holes_and_errors_of_their_own(
    fs: FileSystem, place: str
) -> None:
    data = pattern(3 * MIB)[: 2 * MIB + 100_000]
    file = fs.open(f"{place}/data", "w+")
    fs.write_many([(file, at, data[at : at + 300_000]) for at in range(0, len(data), 300_000)])
    file.flush()
    assert file.size == len(data)
    hole = fs.open(f"{place}/hole", "w+")
    hole.write(b"end", 2 * MIB)
    writer = fs.open(f"{place}/only written", "w")
    with fs.buffer(1 << 18) as buffer:
        buffer.view[:] = b"x" * len(buffer.view)
        pages = [buffer.view[at : at + 4096] for at in range(0, 1 << 18, 4096)]
        odd = memoryview(bytearray(70_000))
        reads = [
            (file, 4096, pages[0]), (file, 77, pages[1]), (file, MIB - 1000, pages[2]),
            (file, len(data) - 10, pages[3]), (file, len(data), pages[4]),
            (hole, 0, pages[5]), (hole, 2 * MIB - 100, pages[6]), (writer, 0, pages[7]),
            (file, 1_000_000, odd), (file, 65_536, buffer.view[131_072:262_144])]
        results = fs.read_many(reads)
        assert isinstance(results[7], FsError)
        assert results[7].kind == Kind.NO_SESSION
        assert results[:7] == [4096, 4096, 4096, 10, 0, 4096, 103]
        assert results[8:] == [70_000, 131_072]
        for (_, offset, view), result in zip(reads[:4], results[:4], strict=True):
            assert isinstance(result, int)
            assert bytes(view[:result]) == data[offset : offset + result]
        assert bytes(pages[5]) == bytes(4096)
        assert bytes(pages[6][:103]) == bytes(100) + b"end"
        assert bytes(odd) == data[1_000_000:1_070_000]
        assert bytes(buffer.view[131_072:]) == data[65_536 : 65_536 + 131_072]
        # What is overwritten is read anew, from whatever cache.
        for seed in range(1, 4):
            file.write(pattern(4096, seed)[:4096], 4096)
            assert fs.read_many([(file, 4096, pages[0]), (file, 8192, pages[1])]) == [4096, 4096]
            assert bytes(pages[0]) == pattern(4096, seed)[:4096]
            assert bytes(pages[1]) == data[8192 : 8192 + 4096]
    for opened in (file, hole, writer):
        opened.close()
    assert isinstance(fs.read_many([(file, 0, odd)])[0], FsError)


def test_a_ring_of_reads_and_writes(fs: FileSystem, place: str) -> None:
    with fs.buffer(8 * MIB) as buffer, fs.open(f"{place}/ring", "w+") as file, \
            fs.ring(8) as ring:
        views = [buffer.view[at : at + MIB] for at in range(0, 8 * MIB, MIB)]
        for number, view in enumerate(views):
            view[:] = pattern(MIB, number)[:MIB]
            ring.write(file, number * MIB, view, number)
        with pytest.raises(FsError) as caught:
            ring.read(file, 0, views[0], "one too many")
        assert caught.value.kind == Kind.BUSY
        assert ring.submit() == 8
        done = ring.wait(8)
        assert {completion.tag: completion.result for completion in done} == dict.fromkeys(
            range(8), MIB)
        assert ring.wait(1, timeout=0.0) == []
        buffer.view[:] = bytes(len(buffer.view))
        for number, view in enumerate(views):
            ring.read(file, number * MIB, view, number)
        ring.submit()
        found: list[Completion] = []
        while len(found) < 8:
            found += ring.wait(1, timeout=10.0)
        assert all(bytes(view) == pattern(MIB, number)[:MIB] for number, view in enumerate(views))


def test_numpy_sees_the_buffer(fs: FileSystem, place: str) -> None:
    numpy = pytest.importorskip("numpy")
    with fs.buffer(4096) as buffer, fs.open(f"{place}/numbers", "w+") as file:
        file.write(numpy.arange(512, dtype="<i8"), 0)
        array = numpy.frombuffer(buffer.view, dtype="<i8")
        assert fs.read_many([(file, 0, array)]) == [4096]
        assert array.tolist() == list(range(512))
        buffer.view[:8] = (7).to_bytes(8, "little")
        assert array[0] == 7


def test_trio_face(fs: FileSystem, place: str) -> None:
    async def main() -> None:
        face = TrioFileSystem(fs)
        async with await face.open(f"{place}/trio", "w+") as file:
            assert await face.write_many([(file, 0, b"abc"), (file, 3, b"def")]) == [3, 3]
            room = bytearray(6)
            assert await face.read_many([(file, 0, room)]) == [6]
            assert room == b"abcdef"
        assert (await face.stat(f"{place}/trio")).size == 6

    trio.run(main)


def test_a_storage_node_that_stops_and_dies_under_batches(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.up("--nodes", "2", "--targets-per-node", "2")
        with luciole.connect(cluster.directory.path) as fs, fs.buffer(64 * 4096) as buffer, \
                fs.open("/data", "w+") as file:
            data = pattern(4 * MIB)[: 4 * MIB]
            file.write(data, 0)
            file.fsync()
            record = processes.running(cluster.directory.pid_file("storage-1"))
            assert record is not None
            timer = threading.Timer(0.3, os.kill, (record.pid, signal.SIGKILL))
            timer.start()
            rooms = [buffer.view[at : at + 4096] for at in range(0, 64 * 4096, 4096)]
            alive, batches = True, 0
            while alive or batches < 50:
                offsets = [(batches * 64 + number) * 4096 % len(data) for number in range(64)]
                results = fs.read_many(
                    [(file, offset, room) for offset, room in zip(offsets, rooms, strict=True)])
                assert results == [4096] * 64
                for offset, room in zip(offsets, rooms, strict=True):
                    assert bytes(room) == data[offset : offset + 4096]
                batches += 1
                alive = timer.is_alive()
            timer.join()
    finally:
        cluster.destroy()


@pytest.mark.parametrize("name", ["dataloader", "checkpoint"])
def test_example(cluster: Cluster, name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), str(cluster.directory.path)],
        capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    count = done.stdout.split()
    assert count[0] == count[2]


def test_import_is_light() -> None:
    code = "import luciole, sys; sys.exit(any(m.startswith('luciole.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=10, check=False).returncode == 0
    with pytest.raises(FsError, match="neither a cluster's directory"):
        luciole.connect("/nowhere")
