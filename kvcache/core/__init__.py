"""What the KV cache decides: pure."""
