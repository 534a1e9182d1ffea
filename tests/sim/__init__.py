"""A small simulated cluster: real services, an unreliable network, no real time."""
