"""libfuse's own example in C as a measure: what FUSE costs when the server does nothing.

Its source comes with the Debian package libfuse3-dev. Where that or a compiler is missing, there
is no such side, and the tables say so. It hands O_DIRECT on to the disk but not aligned memory,
which a disk refuses; so that flag is taken off behind it: its direct figures are of FUSE and the
page cache.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luciole.client.fuse.mount_table import find_mount

SOURCE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
START_SECONDS = 10.0
BUILD_SECONDS = 60.0


def build(folder: Path) -> Path | None:
    """Compiles it into `folder`; None where it cannot be."""
    compiler, packages = shutil.which("gcc"), shutil.which("pkg-config")
    if not SOURCE.exists() or compiler is None or packages is None:
        return None
    source = folder / SOURCE.name
    source.write_text(SOURCE.read_text().replace("~O_NOFOLLOW", "~(O_NOFOLLOW | O_DIRECT)"))
    flags = subprocess.run([packages, "fuse3", "--cflags", "--libs"], check=False,
                           capture_output=True, text=True, timeout=BUILD_SECONDS)
    program = folder / "passthrough_ll"
    built = flags.returncode == 0 and subprocess.run(
        [compiler, "-O2", "-w", "-o", str(program), f"-I{SOURCE.parent}", str(source),
         *flags.stdout.split()],
        check=False, capture_output=True, timeout=BUILD_SECONDS).returncode == 0
    return program if built else None


@contextmanager
def passing_through(program: Path, source: Path, place: Path) -> Iterator[Path]:
    """`source` seen through the program at `place` while the block runs, cached for a minute."""
    source.mkdir()
    place.mkdir()
    child = subprocess.Popen(
        [str(program), "-f", "-o", f"source={source},timeout=60,cache=auto", str(place)])
    try:
        deadline = time.monotonic() + START_SECONDS
        while find_mount(place) is None:
            assert time.monotonic() < deadline
            assert child.poll() is None, "it could not mount"
            time.sleep(0.05)
        yield place
    finally:
        child.terminate()  # it unmounts
        try:
            child.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            subprocess.run(["umount", "--lazy", str(place)], check=False, timeout=START_SECONDS)
