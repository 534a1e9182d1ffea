"""The pure cores on an event heap: the simulator's level of depth."""
