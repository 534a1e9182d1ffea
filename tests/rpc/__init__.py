"""Tests of the RPC bindings."""
