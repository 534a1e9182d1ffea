#!/usr/bin/env bash
# Builds the kernel of the test guest: User-Mode Linux with Soft-RoCE and Soft-iWARP, from Debian's
# kernel source.
#
#   guest_kernel.sh KERNEL      writes the executable KERNEL unless it is there
#
# User-Mode Linux is an ordinary process: it needs neither root nor hardware virtualisation, which
# rented machines often lack. It runs on one processor.
set -euo pipefail

kernel=$1
[ ! -x "$kernel" ] || exit 0
source_package=${GUEST_SOURCE:-linux-source-6.12}
build=$(mktemp -d "$(dirname "$kernel")/build.XXXXXX")
trap 'rm -rf "$build"' EXIT
cd "$build"

apt-get -qq -o APT::Sandbox::User=root download "$source_package"
# What no User-Mode Linux compiles would be most of what is unpacked.
tree=$build/tree
dpkg-deb --fsys-tarfile ./*.deb | tar -xO --wildcards '*/linux-source-*.tar.xz' | xz -dc |
    tar -x --strip-components=1 --one-top-level="$tree" \
        --exclude='*/Documentation/*' --exclude='*/tools/testing/*' --exclude='*/sound/*.[ch]' \
        --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/media/*.[ch]' \
        --exclude='*/drivers/net/*/*/*.[ch]' --exclude='*/drivers/staging/*.[ch]'
rm -f ./*.deb
mkdir -p "$tree/Documentation"
: >"$tree/Documentation/Kconfig"
# Where the processor has AMX, the host wants its whole state back, or nothing.
sed -i '/^int restore_fp_registers/,/^}/ {
    s/iov.iov_base = fp_regs;/static unsigned long whole[4096];\n\t\t__builtin_memcpy(whole, fp_regs, FP_SIZE * sizeof(unsigned long));\n\t\tiov.iov_base = whole;/
    s/iov.iov_len = FP_SIZE.*/iov.iov_len = sizeof(whole);/
}' "$tree/arch/x86/um/os-Linux/registers.c"

# RDMA_RXE asks for PCI, which comes here with virtio alone.
cat >options <<'OPTIONS'
64BIT EXPERT MMU CC_OPTIMIZE_FOR_PERFORMANCE PRINTK BUG SLUB
SYSVIPC POSIX_MQUEUE MULTIUSER FHANDLE POSIX_TIMERS HIGH_RES_TIMERS NO_HZ_IDLE FUTEX MEMBARRIER
EPOLL EVENTFD SIGNALFD TIMERFD SHMEM AIO IO_URING ADVISE_SYSCALLS MEMFD_CREATE CROSS_MEMORY_ATTACH
NAMESPACES UTS_NS IPC_NS PID_NS NET_NS USER_NS FILE_LOCKING INOTIFY_USER
BINFMT_ELF BINFMT_SCRIPT STANDALONE DEVTMPFS DEVTMPFS_MOUNT TTY UNIX98_PTYS NULL_CHAN STDERR_CONSOLE
PROC_FS PROC_SYSCTL SYSFS TMPFS TMPFS_XATTR CONFIGFS_FS HOSTFS OVERLAY_FS FUSE_FS
NET UNIX PACKET INET IPV6 NETDEVICES NET_CORE DUMMY VETH CRYPTO HW_RANDOM UML_RANDOM
VIRTIO_MENU VIRTIO_UML UML_PCI_OVER_VIRTIO
INFINIBAND INFINIBAND_USER_ACCESS INFINIBAND_ADDR_TRANS RDMA_RXE RDMA_SIW
OPTIONS
tr ' ' '\n' <options | sed 's/.*/CONFIG_&=y/' >fragment
cat >>fragment <<'OPTIONS'
CONFIG_UML_PCI_OVER_VIRTIO_DEVICE_ID=1234
CONFIG_CON_ZERO_CHAN="null"
CONFIG_CON_CHAN="null"
OPTIONS
if ! make -s -C "$tree" ARCH=um O="$build/out" KCONFIG_ALLCONFIG="$build/fragment" allnoconfig \
    >log 2>&1; then
    tail -30 log >&2
    exit 1
fi
for option in RDMA_RXE RDMA_SIW INFINIBAND_USER_ACCESS HOSTFS OVERLAY_FS; do
    grep -q "^CONFIG_$option=y" out/.config || { echo "the kernel would lack $option" >&2; exit 1; }
done
if ! make -s -C "$tree" ARCH=um O="$build/out" -j"$(nproc)" linux >log 2>&1; then
    grep -i -A8 error log | tail -40 >&2
    exit 1
fi
strip -s -o "$kernel.new" out/linux
mv "$kernel.new" "$kernel"
