"""One harness: workloads on the mount and beside it on the local disk, in the same run."""
