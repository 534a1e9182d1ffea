"""KV cache for inference engines: immutable blocks by key, on volumes of the storage nodes."""
