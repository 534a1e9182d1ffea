#!/usr/bin/env bash
# Runs a command in a small guest that has a Soft-RoCE device, rxe0 (10.77.0.1 and 10.77.0.2), for
# machines whose kernel has none. The exit status is the command's; 124: it took longer than
# GUEST_SECONDS (600); 125: the guest died.
#
#   guest.sh COMMAND [ARGUMENT...]
#
# The guest sees this machine's files through an overlay: what it writes is dropped, except under
# GUEST_WRITES, one directory. Environment and working directory are the caller's. The kernel is
# built once (guest_kernel.sh) and kept in GUEST_CACHE; with GUEST_BUILD=no it is not, and without it
# the exit status is 77.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luciole-guest}
megabytes=${GUEST_MEGABYTES:-2048}
mkdir -p "$cache"
kernel=$cache/linux-2  # one more for each change of guest_kernel.sh
if [ "${GUEST_BUILD:-yes}" = no ] && [ ! -x "$kernel" ]; then
    echo "the guest's kernel is not built yet: \`make rdma-guest\` does it, in some minutes" >&2
    exit 77
fi
flock "$cache" "$here/guest_kernel.sh" "$kernel"

shared=$(mktemp -d)
guest=
finish() {
    if [ -n "$guest" ]; then kill -9 "$guest" 2>/dev/null || true; fi
    rm -rf "$shared"
}
trap finish EXIT
trap 'exit 130' INT TERM
printf '%s\0' "$@" >"$shared/command"
env -0 >"$shared/environment"
pwd >"$shared/directory"
echo "${GUEST_WRITES:-}" >"$shared/writes"
: >"$shared/output"

cat >"$shared/boot" <<'BOOT'
#!/bin/bash
PATH=/usr/sbin:/usr/bin:/sbin:/bin
shared=${0%/*}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size=75% run /run
mkdir -p /run/upper /run/work /run/root
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root
for directory in proc sys dev; do mount --bind /$directory /run/root/$directory; done
mount -t tmpfs run /run/root/run
mkdir /run/root/run/shared
mount -t hostfs -o "$shared" none /run/root/run/shared
exec chroot /run/root /bin/bash /run/shared/main
BOOT

cat >"$shared/main" <<'MAIN'
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sfn /proc/self/fd /dev/fd
writes=$(</run/shared/writes)
[ -z "$writes" ] || mount -t hostfs -o "$writes" none "$writes"
ip link set lo up
ip link add eth0 type dummy
ip addr add 10.77.0.1/24 dev eth0
ip addr add 10.77.0.2/24 dev eth0
ip link set eth0 mtu 9000 up  # the largest RoCE packet has 4096 bytes and its headers
rdma link add rxe0 type rxe netdev eth0
ulimit -l unlimited
ulimit -n 65536
(
    unset PATH
    while IFS= read -r -d '' pair; do export "$pair"; done </run/shared/environment 2>/dev/null
    export LUCIOLE_GUEST=1
    mapfile -d '' -t command </run/shared/command
    cd "$(</run/shared/directory)" || exit 125
    "${command[@]}" </dev/null >>/run/shared/output 2>&1
)
echo $? >/run/shared/status
sync
python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC)'
MAIN
chmod +x "$shared/boot"

# The guest's memory is a file of the host, at best one in memory.
place=$shared
free=$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
[ "${free:-0}" -le "$megabytes" ] || place=/dev/shm
TMPDIR=$place timeout -k 5 "${GUEST_SECONDS:-600}" "$kernel" mem="${megabytes}M" \
    uml_dir="$shared/" umid=guest root=/dev/root rootfstype=hostfs rootflags=/ ro \
    init="$shared/boot" quiet con=null con0=null,fd:1 console=tty0 \
    </dev/null >"$shared/console" 2>&1 &
guest=$!
tail -q -n +1 -f --pid="$guest" "$shared/output" &
reader=$!
died=0
wait "$guest" || died=$?
guest=
wait "$reader" || true
if [ -s "$shared/status" ]; then exit "$(<"$shared/status")"; fi
tail -40 "$shared/console" >&2
[ "$died" -ne 124 ] || exit 124
echo "the guest died" >&2
exit 125
