"""Ordered transactional key-value stores behind one interface."""
