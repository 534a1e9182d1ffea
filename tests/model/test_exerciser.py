"""The exerciser of one file, for a while; by hand it runs for long (see exerciser.py)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from luciole.tests.fuse.mounted import mounted, needs_fuse
from luciole.tests.model.exerciser import LENGTH_MAX, SMALL_MAX, Exerciser

pytestmark = [pytest.mark.mount, needs_fuse]
OPERATIONS = 500


@pytest.mark.parametrize("length_max", [LENGTH_MAX, SMALL_MAX])
def test_a_file_is_what_was_done_to_it(length_max: int) -> None:
    with (tempfile.TemporaryDirectory(prefix="luciole-test-") as place,
          mounted("direct", Path(place))):
        for seed in range(2):
            exerciser = Exerciser(Path(place) / str(seed), seed, length_max)
            try:
                exerciser.run(OPERATIONS)
            finally:
                exerciser.close()
