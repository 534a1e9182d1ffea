"""Whether this machine has an RDMA device, for the tests that need one."""

from __future__ import annotations

import pytest

from luciole.errors import FsError
from luciole.rpc.rdma_device import devices


def _missing() -> str:
    try:
        devices()
    except FsError as failure:
        return failure.message
    return ""


MISSING = _missing()
needs_device = pytest.mark.skipif(
    bool(MISSING), reason=f"{MISSING}; `make test-rdma` brings one up")
