"""A volume on a real directory: what is put is found, whatever goes wrong is a miss."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from luciole.checksum import block_checksums
from luciole.clock import ManualClock, SeededEntropy
from luciole.errors import FsError, Kind
from luciole.kvcache.volume.checking import check
from luciole.kvcache.volume.disk import VolumeDisk
from luciole.kvcache.volume.reading import read_blocks
from luciole.kvcache.volume.volume import (
    ABSENT,
    DAMAGED,
    PRESENT,
    REFUSED,
    STORED,
    Limits,
    Volume,
)
from luciole.tests.kvcache.volumes import SLAB, SPACE, content, get, key, open_volume, put

KIB = 1024


def test_blocks_are_found_and_stay_after_a_restart(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v", slabs=8)
    sizes = {key(number): size for number, size in enumerate((1, 100, 4096, 65536, 65537, 300_000))}
    assert [put(volume, name, size) for name, size in sizes.items()] == [STORED] * 6
    assert [put(volume, name, size) for name, size in sizes.items()] == [PRESENT] * 6
    for _ in range(2):
        assert {name: len(get(volume, name) or b"") for name in sizes} == sizes
        assert volume.exists(SPACE, [key(99), *sizes]) == bytes([0, 1, 1, 1, 1, 1, 1])
        assert check(volume) == (6, [])
        volume.close()
        volume = open_volume(tmp_path / "v", slabs=8, boot="second")
        assert volume.recovered == 6
    volume.close()


def test_part_of_a_block_is_read_and_verified(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v")
    name, whole = key(1), content(key(1), 300_000)
    put(volume, name, 300_000)
    for offset, length in (
            (0, 10), (65536, 65536), (70_000, 100_000), (299_999, 0), (290_000, 99_999)):
        blocks = read_blocks(volume, SPACE, [name], offset, length)
        data = bytes(blocks.views[0])
        assert data == whole[offset : offset + length if length else None]
        assert blocks.checksums == block_checksums(offset, memoryview(data))
    assert read_blocks(volume, SPACE, [name], 400_000, 5).lengths == [0]
    volume.close()


def flip(volume: Volume, path: Path, name: bytes, offset: int) -> None:
    """Changes one byte of a block on the disk."""
    entry = volume.spaces[SPACE].index[name]
    position = volume.slots.position(entry.place) + offset
    with (path / "blocks").open("r+b") as file:
        file.seek(position)
        old = file.read(1)
        file.seek(position)
        file.write(bytes([old[0] ^ 1]))


@pytest.mark.parametrize("offset", [0, 5, 50, 128, 1000, 100_000])
def test_a_flipped_bit_is_a_miss_and_counted(tmp_path: Path, offset: int) -> None:
    volume = open_volume(tmp_path / "v")
    put(volume, key(1), 150_000)
    put(volume, key(2), 150_000)
    flip(volume, tmp_path / "v", key(1), offset)
    assert read_blocks(volume, SPACE, [key(1), key(2)]).statuses == bytes([DAMAGED, PRESENT])
    assert volume.spaces[SPACE].counts.damaged == 1
    assert read_blocks(volume, SPACE, [key(1)]).statuses == bytes([ABSENT])
    assert check(volume) == (1, [])
    assert put(volume, key(1), 150_000) == STORED
    assert get(volume, key(1)) is not None
    volume.close()


def test_bytes_that_changed_on_the_way_are_refused(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v")
    assert volume.put(SPACE, key(1), memoryview(b"abc"), [1]) == DAMAGED
    assert volume.put(SPACE, key(1), memoryview(b"abc"), []) == DAMAGED
    assert put(volume, key(1), 2 * SLAB) == REFUSED
    assert volume.exists(SPACE, [key(1)]) == b"\0"
    volume.close()


def test_a_quota_holds_and_leases_outlast_it(tmp_path: Path) -> None:
    clock = ManualClock()
    volume = open_volume(tmp_path / "v", clock=clock, limits={SPACE: Limits(300 * KIB, 0)})
    names = [key(number) for number in range(200)]
    put(volume, names[0], 10 * KIB)
    assert volume.match(SPACE, names[:2], 5, 30.0) == (1, 10 * KIB)
    for name in names[1:]:
        assert put(volume, name, 10 * KIB) == STORED
        assert volume.spaces[SPACE].used <= 300 * KIB
    assert volume.spaces[SPACE].used > 0.95 * 300 * KIB
    assert get(volume, names[0]) is not None
    assert volume.lease(5, 60.0)
    volume.evict(SPACE, 0)
    assert list(volume.spaces[SPACE].index) == [names[0]]
    clock.advance(61)
    assert not volume.lease(5, 1.0)
    volume.evict(SPACE, 0)
    assert get(volume, names[0]) is None
    assert check(volume)[1] == []
    volume.close()


def test_when_all_is_leased_a_put_is_refused(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v", limits={SPACE: Limits(100 * KIB, 0)})
    names = [key(number) for number in range(9)]
    for name in names:
        put(volume, name, 10 * KIB)
    assert volume.match(SPACE, names, 1, 10.0)[0] == 9
    assert put(volume, key(50), 10 * KIB) == REFUSED
    assert volume.lease(1, 0)
    assert put(volume, key(50), 10 * KIB) == STORED
    volume.close()


def test_a_full_volume_makes_room_for_other_sizes(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v", limits={1: Limits(None, 0), 2: Limits(None, 0)})
    for number in range(2000):
        assert put(volume, key(number), 4 * KIB, 1) == STORED
    full = volume.spaces[1].used
    assert full > 0.9 * 4 * SLAB * 0.97
    for number in range(20):
        assert put(volume, key(5000 + number), 200 * KIB, 2) == STORED
    assert volume.spaces[2].used > SLAB // 2
    assert volume.spaces[1].used < full
    assert check(volume)[1] == []
    volume.close()


def test_old_blocks_are_not_found_and_swept(tmp_path: Path) -> None:
    clock = ManualClock()
    volume = open_volume(tmp_path / "v", clock=clock, limits={SPACE: Limits(None, 10**9)})
    put(volume, key(1), 100)
    assert volume.exists(SPACE, [key(1)]) == b"\1"
    clock.advance(2)
    assert volume.exists(SPACE, [key(1)]) == b"\0"
    volume.sweep()
    assert volume.spaces[SPACE].counts.expired == 1
    assert volume.spaces[SPACE].used == 0
    volume.close()


def test_deleted_blocks_and_dropped_namespaces_stay_away(tmp_path: Path) -> None:
    limits = {1: Limits(None, 0), 2: Limits(None, 0)}
    volume = open_volume(tmp_path / "v", limits=limits)
    for number in range(3):
        put(volume, key(number), 100, 1)
        put(volume, key(number), 100, 2)
    assert volume.delete(1, [key(0), key(9)]) == bytes([PRESENT, 0])
    del limits[2]
    volume.configure(limits)
    with pytest.raises(FsError, match="no such namespace"):
        volume.exists(2, [key(0)])
    volume.close()
    volume = open_volume(tmp_path / "v", limits=limits)
    assert volume.exists(1, [key(number) for number in range(3)]) == bytes([0, 1, 1])
    assert check(volume) == (2, [])
    volume.close()


def test_before_limits_are_told_a_volume_takes_and_gives_nothing(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "volume")
    put(volume, key(1), 1000)
    volume.close()
    disk = VolumeDisk.open(tmp_path / "volume", cluster_id="cluster-a")
    again = Volume(disk, 4 * SLAB, ManualClock(), SeededEntropy(2), "first")
    for call in (lambda: put(again, key(2), 1000), lambda: get(again, key(1))):
        with pytest.raises(FsError) as caught:
            call()
        assert caught.value.kind == Kind.NOT_FOUND
    again.configure({SPACE: Limits(SLAB, 0)})
    assert get(again, key(1)) is not None
    again.close()


def test_a_volume_serves_one_process_of_one_cluster(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v")
    with pytest.raises(FsError) as failure:
        open_volume(tmp_path / "v")
    assert failure.value.kind == Kind.BUSY
    volume.close()
    with pytest.raises(FsError, match="kv_capacity_bytes"):
        open_volume(tmp_path / "v", slabs=0)


def test_a_smaller_capacity_keeps_what_fits(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v")
    for number in range(12):
        put(volume, key(number), 200 * KIB)
    volume.close()
    volume = open_volume(tmp_path / "v", slabs=2)
    assert 0 < volume.recovered < 12
    assert (tmp_path / "v" / "blocks").stat().st_size == 2 * SLAB
    assert check(volume)[1] == []
    volume.close()


def test_threads_that_put_get_and_evict_never_see_wrong_bytes(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "v", limits={SPACE: Limits(SLAB, 0)})
    wrong: list[str] = []

    def work(seed: int) -> None:
        try:
            for step in range(400):
                name = key((seed * 31 + step * 7) % 150)
                if get(volume, name) is None:
                    put(volume, name, 20 * KIB)
                    assert volume.spaces[SPACE].used <= SLAB
        except AssertionError as failure:
            wrong.append(str(failure))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert volume.spaces[SPACE].counts.damaged == 0
    assert volume.spaces[SPACE].counts.evicted > 0
    assert check(volume)[1] == []
    volume.close()
