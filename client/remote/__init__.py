"""Routing- and retry-aware views of the services."""
