"""The native client against real clusters."""
