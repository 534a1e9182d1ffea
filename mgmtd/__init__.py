"""Cluster manager: membership, routing, configuration."""
