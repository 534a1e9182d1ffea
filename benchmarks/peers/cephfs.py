"""CephFS: a monitor, a manager, a metadata server, two object stores, and ceph-fuse; two copies.

The object stores write past the page cache to sparse files. Nothing is authenticated, as with the
other peers; checksums of messages stay on.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from benchmarks.peers.side import Side, SideError, wait_for
from luciole.deploy.ports import find_block

HOST = "127.0.0.1"
STORES = 2
SETTINGS = """[global]
fsid = {cluster}
mon_host = [v2:{host}:{port}/0]
mon_initial_members = a
public_addr = {host}
cluster_addr = {host}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {root}
admin_socket =
pid_file =
log_file = {root}/$name.log
osd_pool_default_size = 2
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 500
mon_data_avail_warn = 2
mon_data_avail_crit = 1
[mon]
mon_data = {root}/mon
[mgr]
mgr_data = {root}/mgr
mgr_initial_modules =
[mds]
mds_data = {root}/mds
[osd]
osd_data = {root}/osd$id
bluestore_block_size = 8589934592
osd_memory_target = 1073741824
"""


class CephFS(Side):
    """Defaults otherwise, but 1 GiB of cache for each object store."""

    name = "CephFS"
    copies = 2
    survives = "bytes: the power; names: every process; fsync: the power"
    programs = ("ceph", "ceph-mon", "ceph-mgr", "ceph-mds", "ceph-osd", "ceph-fuse", "monmaptool")

    def serve(self) -> None:
        """See Side."""
        for name in ("mon", "mgr", "mds", *(f"osd{number}" for number in range(STORES))):
            (self.root / name).mkdir()
        cluster, port = str(uuid.uuid4()), find_block(1)
        self._settings = self.root / "ceph.conf"
        self._settings.write_text(SETTINGS.format(
            cluster=cluster, host=HOST, port=port, root=self.root))
        members = self.root / "members"
        self.run("monmaptool", "--create", "--fsid", cluster, "--addv", "a",
                 f"[v2:{HOST}:{port}]", members)
        self.run("ceph-mon", "-c", self._settings, "--mkfs", "-i", "a", "--monmap", members)
        self._stay("ceph-mon", "-i", "a")
        wait_for("the monitor", self._answers)
        self._stay("ceph-mgr", "-i", "x")
        for number in range(STORES):
            identity = str(uuid.uuid4())
            self._ceph("osd", "new", identity, str(number))
            self.run("ceph-osd", "-c", self._settings, "-i", str(number), "--mkfs",
                     "--osd-uuid", identity)
            self._stay("ceph-osd", "-i", str(number))
        wait_for("the object stores",
                 lambda: json.loads(self._ceph("osd", "stat", "-f", "json"))["num_up_osds"]
                 == STORES)
        for pool, groups in (("names", "16"), ("bytes", "32")):
            self._ceph("osd", "pool", "create", pool, groups, groups)
        self._ceph("fs", "new", "bench", "names", "bytes")
        self._stay("ceph-mds", "-i", "a")
        wait_for("the metadata server", lambda: "up:active" in self._ceph("mds", "stat"))

    def mount(self) -> None:
        """See Side."""
        self._stay("ceph-fuse", "--client_die_on_failed_remount=false", self.place)

    def _stay(self, program: str, *arguments: str | Path) -> None:
        self.spawn(program, "-f", "-c", self._settings, *arguments)

    def _ceph(self, *arguments: str) -> str:
        return self.run("ceph", "-c", self._settings, "--connect-timeout", "5", *arguments)

    def _answers(self) -> bool:
        try:
            self._ceph("-s")
        except SideError:
            return False
        return True
