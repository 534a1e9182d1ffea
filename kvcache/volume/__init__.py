"""A storage node's part of the KV cache."""
