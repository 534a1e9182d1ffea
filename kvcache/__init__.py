"""KV cache for inference engines: not built yet."""
