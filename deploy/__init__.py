"""The command line and local clusters."""
