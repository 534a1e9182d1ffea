"""What happened in a simulated world: one line an event, and a digest over all of them.

Layer: tests. Two runs are the same run when their digests are. The services' logs are lines of the
trace too; one of level error fails the run.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

RECENT = 400
_LOUD = {"error", "critical"}


class Trace:
    """Events in order. Keeps the last few hundred, or all when told to."""

    def __init__(self, now: Callable[[], float], *, keep_all: bool = False) -> None:
        self._now = now
        self._hash = hashlib.sha256()
        self.recent: deque[str] = deque(maxlen=None if keep_all else RECENT)
        self.events = 0
        self.kinds: Counter[str] = Counter()
        self.errors: list[str] = []

    def note(self, kind: str, text: str) -> None:
        """One event: what kind, and what about it. The text must not depend on the process."""
        line = f"{self._now():10.4f} {kind:<9} {text}"
        self._hash.update(line.encode(errors="backslashreplace") + b"\n")
        self.recent.append(line)
        self.events += 1
        self.kinds[kind] += 1

    @property
    def digest(self) -> str:
        """Names the whole history."""
        return self._hash.hexdigest()[:16]

    def _log(
        self, logger: object, level: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        failure = event.pop("exc_info", None)
        name = event.pop("event", "")
        details = " ".join(f"{key}={value}" for key, value in sorted(event.items()))
        cause = f" {failure!r}" if isinstance(failure, BaseException) else ""
        self.note("log", f"{level} {name} {details}{cause}")
        if level in _LOUD:
            self.errors.append(f"{name} {details}{cause}")
        raise structlog.DropEvent

    @contextmanager
    def hears_logs(self) -> Iterator[None]:
        """Within, what services log comes here."""
        kept = structlog.get_config()
        structlog.configure(processors=[self._log], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**kept)
