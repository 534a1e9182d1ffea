"""Request traces: the public Mooncake format, and a generator of synthetic ones.

Layer: pure but for files. The format (github.com/kvcache-ai/Mooncake, FAST25-release) is one JSON
object a line: `timestamp` in milliseconds, `input_length` and `output_length` in tokens, and
`hash_ids`, one number for each 512 tokens of input: requests with equal leading numbers share that
prefix.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import msgspec

from luciole.errors import FsError, Kind

BLOCK_TOKENS = 512


class Request(msgspec.Struct, frozen=True):
    """One line of a trace."""

    timestamp: float  # ms
    input_length: int
    output_length: int
    hash_ids: list[int]


def read_trace(path: Path, limit: int) -> list[Request]:
    """The first `limit` requests of a trace (0: all). Raises FsError INVALID_ARGUMENT."""
    decoder = msgspec.json.Decoder(Request)
    found: list[Request] = []
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                if limit and len(found) == limit:
                    break
                if line.strip():
                    found.append(decoder.decode(line))
    except OSError as failure:
        raise FsError(Kind.INVALID_ARGUMENT, f"cannot read the trace: {failure.strerror}",
                      str(path)) from failure
    except msgspec.MsgspecError as failure:
        raise FsError(Kind.INVALID_ARGUMENT, f"line {number} is no request of the Mooncake format "
                      f"(timestamp, input_length, output_length, hash_ids): {failure}",
                      str(path)) from failure
    return found


def write_trace(path: Path, requests: Iterator[Request]) -> int:
    """Writes a trace; how many requests it has. Raises FsError INVALID_ARGUMENT."""
    count = 0
    try:
        with path.open("wb") as file:
            for request in requests:
                file.write(msgspec.json.encode(request) + b"\n")
                count += 1
    except OSError as failure:
        raise FsError(Kind.INVALID_ARGUMENT, f"cannot write the trace: {failure.strerror}",
                      str(path)) from failure
    return count


def generate(requests: int, seed: int, per_second: float = 2.0) -> Iterator[Request]:
    """A synthetic trace: conversations that begin with one of some system prompts.

    Prompts are chosen as Zipf has it (the rank's inverse). A request either begins a conversation
    or takes an open one a turn further, whose input is all that was said and something new.
    Times between requests are exponential. The same seed gives the same trace.
    """
    chance = random.Random(seed)
    fresh = iter(range(10**9))
    prompts = [[next(fresh) for _ in range(chance.randint(1, 12))] for _ in range(20)]
    weights = list(accumulate(1 / rank for rank in range(1, len(prompts) + 1)))
    open_talks: list[list[int]] = []
    now = 0.0
    for _ in range(requests):
        now += chance.expovariate(per_second) * 1000
        if open_talks and chance.random() < 0.6:
            talk = open_talks.pop(chance.randrange(len(open_talks)))
        else:
            [start] = chance.choices(prompts, cum_weights=weights)
            talk = list(start)
        talk = talk + [next(fresh) for _ in range(chance.randint(1, 6))]
        output = chance.randint(20, 800)
        length = len(talk) * BLOCK_TOKENS - chance.randrange(BLOCK_TOKENS)
        yield Request(float(round(now)), length, output, talk)
        if chance.random() < 0.8 and len(talk) < 120:
            open_talks.append(talk)
