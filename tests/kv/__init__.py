"""Tests of the key-value engines."""
