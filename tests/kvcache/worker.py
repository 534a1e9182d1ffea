"""A process that puts, matches and gets blocks whose content follows from their key, and counts.

    python -m luciole.tests.kvcache.worker CLIENT_TOML NAMESPACE SEED SECONDS BLOCKS BYTES

It prints one JSON object: how often what happened. Anything that must never happen is in `wrong`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

from luciole.config import ClientConfig, load
from luciole.kvcache.store import Namespace, Store
from luciole.tests.kvcache.volumes import content, key

RUN = 8  # blocks of a prompt
DEADLINE_S = 5.0
GRACE_S = 0.6  # a machine under load is a little late


class Worker:
    """One client at work."""

    def __init__(self, namespace: Namespace, seed: int, blocks: int, size: int) -> None:
        self.namespace = namespace
        self.chance = random.Random(seed)
        self.prompts = blocks // RUN
        self.size = size
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0

    def step(self) -> None:
        """One request of an engine. Some prompts are asked for more often than others."""
        prompt = int(self.prompts * self.chance.random() ** 2)
        names = [key(prompt * RUN + number) for number in range(RUN)]
        began = time.monotonic()
        match = self.namespace.match_prefix(names, lease=20.0, deadline=DEADLINE_S)
        self.late("match", began)
        self.counts["matched"] += match.count
        if match.count:
            self.read(names[: match.count])
        if match.lease is not None:
            self.namespace.release(match.lease)
        missing = names[match.count :]
        if missing:
            began = time.monotonic()
            for outcome in self.namespace.put(
                    missing, [content(name, self.size) for name in missing], deadline=DEADLINE_S):
                self.counts[f"put {outcome.name}"] += 1
            self.late("put", began)
        self.counts["steps"] += 1

    def read(self, names: list[bytes]) -> None:
        buffers = [bytearray(self.size) for _ in names]
        began = time.monotonic()
        outcomes = self.namespace.get(names, buffers, deadline=DEADLINE_S)
        self.late("get", began)
        for name, buffer, outcome in zip(names, buffers, outcomes, strict=True):
            self.counts[f"get {outcome.name}"] += 1
            if outcome.ok and bytes(buffer) != content(name, self.size):
                self.wrong.append(f"wrong bytes of {name.hex()}")

    def late(self, what: str, began: float) -> None:
        seconds = time.monotonic() - began
        self.slowest = max(self.slowest, seconds)
        if seconds > DEADLINE_S + GRACE_S:
            self.wrong.append(f"{what} took {seconds:.2f} s")


def main() -> None:
    """Works until the time is over."""
    config, name, seed, seconds, blocks, size = sys.argv[1:]
    with Store(load(Path(config), ClientConfig)) as store:
        worker = Worker(store.namespace(name), int(seed), int(blocks), int(size))
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            worker.step()
    print(json.dumps({"counts": worker.counts, "wrong": worker.wrong[:10],
                      "slowest": worker.slowest}))


if __name__ == "__main__":
    main()
