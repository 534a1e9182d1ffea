"""FUSE bindings over `Operations`."""
