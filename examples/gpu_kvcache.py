"""Blocks of a GPU's attention cache, to the KV cache and back: `python gpu_kvcache.py CLUSTER`.

The GPU copies straight into the memory that the storage service of this machine reads and fills,
so no byte passes through this program: `store.buffer` is shared with the service, and
cudaHostRegister pins it for the GPU. Needs torch with CUDA, and a cluster that caches
(`luciole up ./cluster --kv-capacity 8G`).
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import torch

from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.errors import FsError, Kind
from luciole.kvcache.store import Namespace, Store
from luciole.proto import mgmtd_pb2
from luciole.rpc.memory import Region
from luciole.runtime import drive

LAYERS, TOKENS, HEADS, WIDTH = 32, 64, 8, 128  # a block: 64 tokens of an 8B model, 8 MiB in bf16
BLOCKS = 32
ROUNDS = 5
NAME = "gpu-example"


class Pinned:
    """Memory that GPU and storage service both reach: a tensor over a region."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.tensor = torch.frombuffer(region.view, dtype=torch.uint8)
        check(torch.cuda.cudart().cudaHostRegister(self.tensor.data_ptr(), region.size, 0))

    def close(self) -> None:
        """Unpins it."""
        check(torch.cuda.cudart().cudaHostUnregister(self.tensor.data_ptr()))


def check(status: object) -> None:
    """Raises RuntimeError unless CUDA says success."""
    if int(status) != 0:  # type: ignore[call-overload]
        raise RuntimeError(f"CUDA: {status}")


def opened(store: Store) -> Namespace:
    """The namespace, made if it is missing."""
    try:
        return store.namespace(NAME)
    except FsError as failure:
        if failure.kind != Kind.NOT_FOUND:
            raise
        drive(store.cluster.set_namespace(mgmtd_pb2.KvNamespace(name=NAME, replication=1)))
        return store.namespace(NAME)


def main(cluster: str) -> None:
    """Offloads blocks, forgets them, brings them back, and compares on the GPU."""
    shape = (BLOCKS, LAYERS, 2, TOKENS, HEADS, WIDTH)
    cache = torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    block_bytes = cache[0].numel() * cache.element_size()
    keys = [hashlib.sha256(b"%d %d" % (number, time.time_ns())).digest()
            for number in range(BLOCKS)]
    config = ClusterDirectory(Path(cluster)).client_config()
    with Store(config) as store:
        blocks = opened(store)
        host = Pinned(store.buffer(BLOCKS * block_bytes))
        flat = cache.view(torch.uint8).view(-1)
        views = [host.region.view[at : at + block_bytes]
                 for at in range(0, BLOCKS * block_bytes, block_bytes)]

        began = time.perf_counter()
        host.tensor.copy_(flat, non_blocking=True)
        torch.cuda.synchronize()
        copied = time.perf_counter()
        stored = blocks.put(keys, views, deadline=60.0)
        put = time.perf_counter()
        print(f"{BLOCKS} blocks of {block_bytes >> 20} MiB: GPU to memory "
              f"{rate(flat.numel(), copied - began)}, put {rate(flat.numel(), put - copied)}, "
              f"{sum(outcome.ok for outcome in stored)} stored")

        back = torch.empty_like(cache)
        for _ in range(ROUNDS):
            host.tensor.zero_()
            back.zero_()
            torch.cuda.synchronize()
            began = time.perf_counter()
            found = blocks.get(keys, views, deadline=60.0)
            got = time.perf_counter()
            back.view(torch.uint8).view(-1).copy_(host.tensor, non_blocking=True)
            torch.cuda.synchronize()
            ended = time.perf_counter()
            print(f"get {rate(flat.numel(), got - began)}, memory to GPU "
                  f"{rate(flat.numel(), ended - got)}, "
                  f"{sum(outcome.ok for outcome in found)} found, "
                  f"{'the same' if torch.equal(back, cache) else 'DIFFERENT'}")
        host.close()


def rate(size: int, seconds: float) -> str:
    """Bytes a second, for people."""
    return f"{size / seconds / 1e9:.2f} GB/s"


if __name__ == "__main__":
    main(sys.argv[1])
