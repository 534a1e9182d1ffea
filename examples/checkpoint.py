"""A checkpoint written and read with a ring: `python checkpoint.py CLUSTER`.

Parts of 1 MiB go side by side; the new checkpoint takes the old one's name when it is durable.
"""

from __future__ import annotations

import sys

import luciole
from luciole.client.native.file import File

PART_BYTES = 1 << 20
PARTS = 16
DEPTH = 4


def main(cluster: str) -> None:
    """Saves, and loads what was saved."""
    with luciole.connect(cluster) as fs, fs.buffer(PARTS * PART_BYTES) as weights, \
            fs.ring(DEPTH) as ring:
        for number in range(PARTS):
            weights.view[number * PART_BYTES :][:PART_BYTES] = bytes([number]) * PART_BYTES
        parts = [(at, weights.view[at : at + PART_BYTES])
                 for at in range(0, PARTS * PART_BYTES, PART_BYTES)]

        def transfer(put: bool, file: File) -> None:
            waiting = list(parts)
            running = 0
            while waiting or running:
                while waiting and running < DEPTH:
                    offset, view = waiting.pop()
                    (ring.write if put else ring.read)(file, offset, view, offset)
                    running += 1
                ring.submit()
                for completion in ring.wait():
                    if isinstance(completion.result, luciole.FsError):
                        raise completion.result
                    running -= 1

        with fs.open("/checkpoint.new", "w") as file:
            transfer(True, file)
            file.fsync()
        fs.rename("/checkpoint.new", "/checkpoint")
        weights.view[:] = bytes(len(weights.view))
        with fs.open("/checkpoint") as file:
            transfer(False, file)
        right = sum(view[0] == number == view[-1] for number, (_, view) in enumerate(parts))
    print(f"{right} of {PARTS} parts are right")


if __name__ == "__main__":
    main(sys.argv[1])
