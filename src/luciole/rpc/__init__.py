"""One handler, many transports."""
