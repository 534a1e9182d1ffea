"""Metadata service: the namespace, every operation one transaction."""
