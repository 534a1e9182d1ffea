"""Chunk engines behind one interface."""
