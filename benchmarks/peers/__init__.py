"""Filesystems to measure beside: one module each, behind the interface of `side`."""
