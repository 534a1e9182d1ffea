"""Luciole: a distributed parallel filesystem for AI clusters."""
