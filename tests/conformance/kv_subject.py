"""What the cases of the `KeyValueStore` suite run on, and how they look at it."""

from __future__ import annotations

import struct
import threading
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import pytest

from luciole.errors import FsError, Kind
from luciole.kv.interface import KeyValue, KeyValueStore, Transaction, prefix_end
from luciole.runtime import drive

T = TypeVar("T")


class Subject(NamedTuple):
    """What a case runs on: waits of the store block the thread."""

    store: KeyValueStore
    prefix: bytes  # of keys that nobody else uses
    pass_time: Callable[[float], None]  # lets so many seconds of the store's clock go by

    def key(self, name: bytes) -> bytes:
        return self.prefix + name

    def begin(self) -> Session:
        return Session(self.store.transaction())

    def put(self, **values: bytes) -> None:
        with_values = self.begin()
        for name, value in values.items():
            with_values.inner.set(self.key(name.encode()), value)
        with_values.commit()

    def read(self, name: bytes) -> bytes | None:
        return self.begin().get(self.key(name))

    def names(self, **options: int) -> list[bytes]:
        """The names under the prefix, in the order of a range read."""
        found = self.begin().range(self.prefix, prefix_end(self.prefix), **options)
        return [record.key[len(self.prefix) :] for record in found]


class Session(NamedTuple):
    """A transaction on a plain thread."""

    inner: Transaction

    def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        return waited(self.inner.get(key, snapshot=snapshot))

    def range(self, begin: bytes, end: bytes, **options: int) -> list[KeyValue]:
        return waited(
            self.inner.get_range(
                begin,
                end,
                limit=options.get("limit", 0),
                reverse=bool(options.get("reverse", False)),
                snapshot=bool(options.get("snapshot", False)),
            )
        )

    def commit(self) -> None:
        waited(self.inner.commit())

    def outcome(self) -> Kind | None:
        """Commits; None is success."""
        try:
            self.commit()
        except FsError as failure:
            return failure.kind
        return None


def waited(call: Awaitable[T]) -> T:
    async def body() -> T:
        return await call

    return drive(body())


def raises(kind: Kind, call: Callable[[], object]) -> FsError:
    """Calls, and wants an FsError of that kind."""
    with pytest.raises(FsError) as caught:
        call()
    assert caught.value.kind == kind, caught.value
    return caught.value


def wait_until(condition: Callable[[], bool]) -> None:
    """Looks every millisecond, for 30 seconds, at what has no signal to wait for."""
    pause = threading.Event()
    for _ in range(30_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come to pass")


def number(value: int) -> bytes:
    return struct.pack("<q", value)


def on_threads(count: int, work: Callable[[int], object]) -> None:
    """Runs work(0) ... work(count - 1) side by side; raises the first failure."""
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]
