"""The binding that speaks the kernel's own protocol on /dev/fuse, without a library between."""
