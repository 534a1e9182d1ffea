"""Random samples of a dataset into one batch, without a copy: `python dataloader.py CLUSTER`.

The batch lies in a buffer that services on this machine fill in place; `read_many` asks for all of
its samples in one round trip to each node. numpy.frombuffer(batch.view) is an array of it.
"""

from __future__ import annotations

import random
import sys

import luciole

SAMPLE_BYTES = 4096  # whole pages are read in place
SAMPLES = 256
BATCH = 32


def main(cluster: str) -> None:
    """Writes a small dataset, then reads one epoch of it in random order."""
    with luciole.connect(cluster) as fs, fs.buffer(BATCH * SAMPLE_BYTES) as batch:
        with fs.open("/dataset.bin", "w") as file:
            for number in range(SAMPLES):
                file.write(bytes([number % 256]) * SAMPLE_BYTES, number * SAMPLE_BYTES)
        rooms = [batch.view[at : at + SAMPLE_BYTES]
                 for at in range(0, BATCH * SAMPLE_BYTES, SAMPLE_BYTES)]
        order = random.sample(range(SAMPLES), SAMPLES)
        seen = 0
        with fs.open("/dataset.bin") as file:
            for first in range(0, SAMPLES, BATCH):
                wanted = order[first : first + BATCH]
                results = fs.read_many([
                    (file, number * SAMPLE_BYTES, room)
                    for number, room in zip(wanted, rooms, strict=True)])
                for result in results:
                    if isinstance(result, luciole.FsError):
                        raise result
                seen += sum(room[0] == number % 256
                            for number, room in zip(wanted, rooms, strict=True))
        fs.remove("/dataset.bin")
    print(f"{seen} of {SAMPLES} samples are right")


if __name__ == "__main__":
    main(sys.argv[1])
