"""Client library: files over chunks, and the FUSE mount."""
