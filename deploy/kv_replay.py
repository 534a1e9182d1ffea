"""`luciole kv replay`: a trace of requests against a live cluster.

Layer: shell. Each request does what an inference engine does: it looks its prompt up under a lease,
fetches what is there, and stores the blocks that it then had to compute. What a fetched block says
of itself is compared with its key.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luciole.deploy.connect import add_cluster_options, client_config
from luciole.deploy.kv_trace import BLOCK_TOKENS, Request, generate, read_trace, write_trace
from luciole.deploy.output import Reporter, answers, print_json, progress
from luciole.deploy.status import size_text
from luciole.deploy.trees import amount
from luciole.errors import FsError, Kind, require
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.statistics import Histogram
from luciole.kvcache.store import Namespace, Store

LEASE_SECONDS = 30.0
POINTS = 200  # of the plot, at most
BATCH_BYTES = 64 * 1024 * 1024  # memory for blocks in flight


def add_command(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `replay`."""
    parser = actions.add_parser(
        "replay", help="replay a request trace", description="Replays a trace in the public "
        "Mooncake format (JSON lines: timestamp, input_length, output_length, hash_ids) and "
        "reports hit rate, rates, latencies and the prefill that was saved. With --generate it "
        "writes a synthetic trace instead.",
        epilog="example: luciole kv replay --generate t.jsonl --requests 500 && "
        "luciole kv replay t.jsonl --name llama --png hits.png")
    parser.add_argument("trace", nargs="?", metavar="TRACE", help="the trace")
    add_cluster_options(parser)
    parser.add_argument("--name", metavar="NAMESPACE", help="where blocks go")
    parser.add_argument("--block-size", type=amount, default=64 * 1024, metavar="SIZE",
                        help=f"bytes of each {BLOCK_TOKENS} tokens (default: 64K)")
    parser.add_argument("--speed", type=float, default=0.0, metavar="FACTOR",
                        help="1: as in the trace, 10: ten times as fast, 0: without pauses "
                        "(default)")
    parser.add_argument("--requests", type=int, default=0, metavar="N",
                        help="only so many (of --generate: 1000)")
    parser.add_argument("--memory", type=amount, default=0, metavar="SIZE",
                        help="memory tier of the client (default: none)")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS",
                        help="of each lookup and fetch (default: 10)")
    parser.add_argument("--png", metavar="FILE", help="plot of the hit rate (needs matplotlib)")
    parser.add_argument("--generate", metavar="FILE", help="write a synthetic trace there")
    parser.add_argument("--seed", type=int, default=1, help="of --generate (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


@dataclass
class Result:
    """What a replay measured."""

    requests: int = 0
    blocks: int = 0
    hit_blocks: int = 0
    lost_blocks: int = 0  # matched under a lease, and then not read
    wrong_blocks: int = 0
    stored_blocks: int = 0
    input_tokens: int = 0
    saved_tokens: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    lookup: Histogram = field(default_factory=Histogram)
    fetch: Histogram = field(default_factory=Histogram)
    store: Histogram = field(default_factory=Histogram)
    curve: list[tuple[float, int, int]] = field(default_factory=list)  # s, hits, blocks

    @property
    def hit_rate(self) -> float:
        """Of blocks."""
        return self.hit_blocks / self.blocks if self.blocks else 0.0

    def plain(self) -> dict[str, object]:
        """As JSON."""
        found: dict[str, object] = {
            name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        found |= {"hit_rate": self.hit_rate,
                  "read_bytes_per_s": self.bytes_read / max(self.seconds, 1e-9),
                  "written_bytes_per_s": self.bytes_written / max(self.seconds, 1e-9)}
        for name, times in (("lookup", self.lookup), ("fetch", self.fetch), ("store", self.store)):
            found[f"{name}_ms"] = {
                f"p{share}": round(times.percentile(share / 100) * 1000, 3)
                for share in (50, 90, 99)}
        return found


def run(args: argparse.Namespace) -> int:
    """Replays or generates."""
    if args.generate:
        count = write_trace(Path(args.generate), generate(args.requests or 1000, args.seed))
        answers().print(f"wrote {count} requests to {args.generate}")
        return 0
    require(bool(args.trace and args.name), Kind.INVALID_ARGUMENT,
            "name a trace and, with --name, a namespace (`luciole kv list`)")
    require(args.block_size >= 64, Kind.INVALID_ARGUMENT, "--block-size is 64 bytes at least")
    if args.png:
        _plotter()
    requests = read_trace(Path(args.trace), args.requests)
    with Store(client_config(args), args.memory) as store, progress(quiet=args.json) as report:
        result = replay(store.namespace(args.name), requests, args.block_size, report,
                        speed=args.speed, deadline=args.deadline)
    if args.png:
        plot(result, Path(args.png))
    if args.json:
        print_json(result.plain())
    else:
        _render(result)
    return 0


def key_of(hash_id: int, block_size: int) -> bytes:
    """The key of a trace's block. Blocks of other sizes are other blocks."""
    return hashlib.sha256(f"trace {block_size} {hash_id}".encode()).digest()


def replay(
    namespace: Namespace, requests: Sequence[Request], block_size: int, report: Reporter, *,
    speed: float = 0.0, deadline: float = 10.0,
) -> Result:
    """Runs requests one after another."""
    result = Result()
    pool = [bytearray(block_size) for _ in range(max(1, BATCH_BYTES // block_size))]
    began = time.monotonic()
    first = requests[0].timestamp if requests else 0.0
    for number, request in enumerate(requests):
        if speed > 0:
            due = began + (request.timestamp - first) / 1000 / speed
            time.sleep(max(0.0, due - time.monotonic()))
        _one(namespace, request, pool, result, deadline)
        if number % max(1, len(requests) // POINTS) == 0 or number + 1 == len(requests):
            result.curve.append((time.monotonic() - began, result.hit_blocks, result.blocks))
            report("replaying", number + 1, len(requests))
    result.seconds = time.monotonic() - began
    return result


def _one(
    namespace: Namespace, request: Request, pool: list[bytearray], result: Result, deadline: float
) -> None:
    block_size = len(pool[0])
    keys = [key_of(hash_id, block_size) for hash_id in request.hash_ids]
    began = time.perf_counter()
    match = namespace.match_prefix(keys, LEASE_SECONDS, deadline)
    matched = time.perf_counter()
    result.lookup.add(matched - began)
    got = 0
    for at in range(0, match.count, len(pool)):
        some = keys[at : min(at + len(pool), match.count)]
        outcomes = namespace.get(some, pool[: len(some)], deadline=deadline)
        for key, buffer, outcome in zip(some, pool, outcomes, strict=False):
            if outcome.ok and buffer[:32] != key:
                result.wrong_blocks += 1
        while got - at < len(some) and outcomes[got - at].ok:
            got += 1
    if match.count:
        result.fetch.add(time.perf_counter() - matched)
    if match.lease is not None:
        namespace.release(match.lease)
    computed = time.perf_counter()
    stored = 0
    for at in range(got, len(keys), len(pool)):
        some = keys[at : at + len(pool)]
        for key, buffer in zip(some, pool, strict=False):
            buffer[:32] = key
        outcomes = namespace.put(some, pool[: len(some)], deadline)
        stored += outcomes.count(Outcome.STORED)
    if got < len(keys):
        result.store.add(time.perf_counter() - computed)
    result.requests += 1
    result.blocks += len(keys)
    result.hit_blocks += got
    result.lost_blocks += match.count - got
    result.stored_blocks += stored
    result.input_tokens += request.input_length
    result.saved_tokens += min(got * BLOCK_TOKENS, request.input_length)
    result.bytes_read += got * block_size
    result.bytes_written += stored * block_size


def _render(result: Result) -> None:
    shown = result.plain()
    saved = result.saved_tokens / max(1, result.input_tokens)
    console = answers()
    console.print(f"{result.requests} requests in {result.seconds:.1f} s: "
                  f"{result.hit_rate:.1%} of {result.blocks} blocks hit, "
                  f"{result.saved_tokens} of {result.input_tokens} tokens of prefill saved "
                  f"({saved:.1%})")
    console.print(f"read {size_text(int(result.bytes_read / result.seconds))}/s, "
                  f"written {size_text(int(result.bytes_written / result.seconds))}/s")
    for name in ("lookup", "fetch", "store"):
        console.print(f"{name}, ms: {shown[f'{name}_ms']}")
    if result.lost_blocks or result.wrong_blocks:
        console.print(f"{result.lost_blocks} leased blocks did not come, {result.wrong_blocks} "
                      "were wrong", style="bold red")


def _plotter() -> object:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as failure:
        raise FsError(Kind.NOT_SUPPORTED, "--png needs matplotlib: `pip install 'luciole[plot]'`"
                      ) from failure
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def plot(result: Result, path: Path) -> None:
    """Draws the hit rate over time: of all so far, and of each part. Raises FsError."""
    pyplot: object = _plotter()
    figure, axes = pyplot.subplots(figsize=(8, 4.5))  # type: ignore[attr-defined]
    seconds = [at for at, _, _ in result.curve]
    so_far = [100 * hits / max(1, blocks) for _, hits, blocks in result.curve]
    before = [(0.0, 0, 0), *result.curve]
    each = [100 * (hits - old_hits) / max(1, blocks - old_blocks)
            for (_, old_hits, old_blocks), (_, hits, blocks)
            in zip(before, result.curve, strict=False)]
    axes.plot(seconds, each, color="0.75", label="each part")
    axes.plot(seconds, so_far, color="tab:blue", label="so far")
    axes.set(xlabel="seconds", ylabel="hit rate, % of blocks", ylim=(0, 100))
    axes.legend()
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as failure:
        raise FsError(Kind.INVALID_ARGUMENT, f"cannot write the plot: {failure}",
                      str(path)) from failure
