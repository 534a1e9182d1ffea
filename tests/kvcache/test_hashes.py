"""Chains of block hashes: against vectors written out by hand from the engines' definitions."""

from __future__ import annotations

import hashlib
import pickle

import pytest

from luciole.errors import FsError
from luciole.kvcache.hashes import (
    canonical_cbor,
    name_key,
    sglang_chain,
    vllm_chain,
    vllm_none_hash,
)

TOKENS = list(range(1000, 1100))
# RFC 8949, appendix A.
CBOR_VECTORS = [
    (0, "00"), (10, "0a"), (23, "17"), (24, "1818"), (25, "1819"), (100, "1864"), (1000, "1903e8"),
    (1000000, "1a000f4240"), (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"), (-1, "20"), (-10, "29"), (-100, "3863"),
    (-1000, "3903e7"), (None, "f6"), (b"", "40"), (b"\1\2\3\4", "4401020304"), ("", "60"),
    ("IETF", "6449455446"), ("ü", "62c3bc"), ((), "80"), ((1, 2, 3), "83010203"),
    ((1, (2, 3), (4, 5)), "8301820203820405")]


@pytest.mark.parametrize(("value", "encoded"), CBOR_VECTORS)
def test_cbor_is_that_of_the_standard(value: object, encoded: str) -> None:
    assert canonical_cbor(value).hex() == encoded  # type: ignore[arg-type]


def test_what_cbor_cannot_say_is_refused() -> None:
    with pytest.raises(FsError, match="64 bits"):
        canonical_cbor(1 << 64)


def test_vllm_blocks_written_out() -> None:
    none = hashlib.sha256(b"\x6evllm-none-hash").digest()  # text of 14 bytes
    assert vllm_none_hash() == none
    # [parent, [1, 24, 70000], null]
    first = hashlib.sha256(b"\x83\x58\x20" + none + b"\x83\x01\x18\x18\x1a\x00\x01\x11\x70\xf6")
    second = hashlib.sha256(b"\x83\x58\x20" + first.digest() + b"\x83\x02\x03\x04"
                            b"\x81\x64salt")
    keys = vllm_chain([1, 24, 70000, 2, 3, 4, 9], 3, extra_keys=[None, ("salt",)])
    assert keys == [first.digest() + bytes(4), second.digest() + bytes(4)]
    assert vllm_chain([1, 24, 70000], 3, group=5) == [first.digest() + b"\0\0\0\5"]
    assert vllm_chain([1, 24, 70000], 3, group=None) == [first.digest()]


def test_vllm_pickled() -> None:
    none = hashlib.sha256(pickle.dumps("vllm-none-hash", protocol=5)).digest()
    first = hashlib.sha256(pickle.dumps((none, (1, 2), None), protocol=5)).digest()
    assert vllm_chain([1, 2, 3], 2, algorithm="sha256", group=None) == [first]


def test_sglang_pages_written_out() -> None:
    first = hashlib.sha256(b"\1\0\0\0" b"\2\1\0\0").digest()
    second = hashlib.sha256(first + b"\3\0\0\0" b"\4\0\0\0").digest()
    assert sglang_chain([1, 258, 3, 4, 5], 2) == [first, second]
    assert sglang_chain([3, 4], 2, prior=first) == [second]


@pytest.mark.parametrize("size", [16, 64])
def test_a_key_stands_for_its_whole_prefix(size: int) -> None:
    for chain in (vllm_chain, sglang_chain):
        keys = chain(TOKENS, size)
        assert len(keys) == len(TOKENS) // size
        assert chain(TOKENS[: 3 * size], size) == keys[:3]
        other = chain([7, *TOKENS[1:]], size)
        assert not set(other) & set(keys)
    assert vllm_chain(TOKENS, size, seed="1") != vllm_chain(TOKENS, size)


def test_names_of_engines_become_keys() -> None:
    assert len(name_key("model", 1, b"hash")) == 32
    # Parts do not run into each other.
    assert name_key("ab", "c") != name_key("a", "bc")
    with pytest.raises(FsError, match="0 tokens"):
        vllm_chain(TOKENS, 0)
