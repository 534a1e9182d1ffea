"""Keys of blocks as inference engines compute them from token ids.

Layer: pure. A block's key is a hash over its tokens and the key of the block before it, so that a
key stands for a whole prefix (docs/kvcache.md says which engine uses what, and how far engines can
share). Three chains:

- `vllm_chain`: vLLM's `sha256_cbor` and `sha256` (prefix caching hash algorithms): the hash of
  (parent, tokens, extra keys), as canonical CBOR (RFC 8949, section 4.2.1) or as a pickle; the
  first parent is the hash of a seed.
- `sglang_chain`: SGLang's HiCache: SHA-256 of the parent's digest and the tokens as u32 LE.
- `name_key`: the digest of a key that an engine has made already (LMCache), of whatever length.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Literal

from luciole.errors import Kind, require

VLLM_SEED = "vllm-none-hash"  # unless the engine runs with PYTHONHASHSEED
MLA_PAGE_TOKENS = 64  # of engines that serve multi-head latent attention
Atom = int | str | bytes | None
Value = Atom | tuple["Value", ...]
VllmAlgorithm = Literal["sha256_cbor", "sha256"]
_U64 = 1 << 64


def canonical_cbor(value: Value) -> bytes:
    """The canonical CBOR of integers, strings, bytes, None and tuples of such.

    Raises FsError INVALID_ARGUMENT for an integer beyond 64 bits.
    """
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return _cbor_head(0, value) if value >= 0 else _cbor_head(1, -1 - value)
    if isinstance(value, bytes):
        return _cbor_head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _cbor_head(3, len(text)) + text
    return _cbor_head(4, len(value)) + b"".join(map(canonical_cbor, value))


def _cbor_head(major: int, number: int) -> bytes:
    """Major type and number in the shortest form."""
    require(number < _U64, Kind.INVALID_ARGUMENT, "an integer of a hash exceeds 64 bits")
    if number < 24:
        return bytes([major << 5 | number])
    power = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes([major << 5 | 24 + power]) + number.to_bytes(1 << power, "big")


def _sha256_cbor(value: Value) -> bytes:
    return hashlib.sha256(canonical_cbor(value)).digest()


def _sha256_pickle(value: Value) -> bytes:
    return hashlib.sha256(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)).digest()


_VLLM: dict[str, Callable[[Value], bytes]] = {
    "sha256_cbor": _sha256_cbor, "sha256": _sha256_pickle}


def vllm_none_hash(seed: str = VLLM_SEED, algorithm: VllmAlgorithm = "sha256_cbor") -> bytes:
    """The parent of first blocks."""
    return _VLLM[algorithm](seed)


def vllm_chain(
    tokens: Sequence[int], block_tokens: int, *, algorithm: VllmAlgorithm = "sha256_cbor",
    seed: str = VLLM_SEED, extra_keys: Sequence[tuple[Value, ...] | None] = (),
    group: int | None = 0,
) -> list[bytes]:
    """Keys of all whole blocks of a prompt, as vLLM's offloading tiers use them.

    Args:
        tokens: ids of the prompt.
        block_tokens: tokens of a block (16 by default there, 64 for MLA).
        algorithm: of `--prefix-caching-hash-algo`. "sha256" is a pickle's: for CPython alone.
        seed: PYTHONHASHSEED of the engines, if they have one.
        extra_keys: of each block (LoRA, cache salt, images); missing ones are None.
        group: number of the KV cache group, which follows the hash as u32 BE; None: not.

    Returns 36 bytes for each block, 32 without group.
    """
    hash_of = _VLLM[algorithm]
    parent = hash_of(seed)
    suffix = b"" if group is None else group.to_bytes(4, "big")
    keys = []
    for number, block in enumerate(_blocks(tokens, block_tokens)):
        extra = extra_keys[number] if number < len(extra_keys) else None
        parent = hash_of((parent, block, extra))
        keys.append(parent + suffix)
    return keys


def sglang_chain(
    tokens: Sequence[int], page_tokens: int, prior: bytes | None = None
) -> list[bytes]:
    """Keys of all whole pages of a prompt, as SGLang's HiCache computes them.

    Args:
        tokens: ids of the prompt, below 2^32.
        page_tokens: `--page-size`, 64 for MLA.
        prior: key of the page before the first one, or the digest that an extra key seeds.

    Returns 32 bytes for each page; SGLang writes them in hexadecimal digits.
    """
    keys = []
    for page in _blocks(tokens, page_tokens):
        hasher = hashlib.sha256(prior or b"")
        hasher.update(struct.pack(f"<{len(page)}I", *page))
        prior = hasher.digest()
        keys.append(prior)
    return keys


def name_key(*parts: str | bytes | int) -> bytes:
    """A key of 32 bytes for one that an engine names otherwise: SHA-256 of its parts as CBOR.

    LMCache's chunk hash, model, world size, rank and group, for example. Engines that give equal
    parts share blocks.
    """
    return _sha256_cbor(parts)


def _blocks(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Whole blocks of tokens. A last one that is not full has no key: it may still grow."""
    require(size > 0, Kind.INVALID_ARGUMENT, f"blocks of {size} tokens cannot be")
    return [tuple(tokens[at : at + size]) for at in range(0, len(tokens) - size + 1, size)]
