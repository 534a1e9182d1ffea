"""Tests of the bindings to the kernel."""
