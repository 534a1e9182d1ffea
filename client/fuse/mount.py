"""The mount's process: one client, one binding, until it is unmounted or told to stop.

Layer: shell. A binding is loaded only when it is chosen: pyfuse3 may not be installed.
"""

from __future__ import annotations

from pathlib import Path

from luciole.client.side_tree import MakeTree
from luciole.config import ClientConfig
from luciole.errors import FsError, Kind


def serve_mount(
    config: ClientConfig, mount_point: Path, *, allow_other: bool, tree: MakeTree | None = None
) -> None:
    """Mounts and serves until unmounted or SIGTERM. Raises FsError when it cannot mount.

    `tree` makes the read-only tree under the hidden name of the root.
    """
    if config.fuse_binding == "direct":
        from luciole.client.fuse.direct.mount import serve_direct  # noqa: PLC0415

        serve_direct(config, mount_point, allow_other=allow_other, tree=tree)
        return
    try:
        from luciole.client.fuse.pyfuse3_mount import serve_pyfuse3  # noqa: PLC0415
    except ImportError as failure:
        raise FsError(
            Kind.CONFIG_INVALID, "pyfuse3 is not installed: `pip install 'luciole[fuse]'`, or "
            'fuse_binding = "direct", which needs nothing', str(failure)) from failure
    serve_pyfuse3(config, mount_point, allow_other=allow_other, tree=tree)
