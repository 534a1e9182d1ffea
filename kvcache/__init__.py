"""KV cache for inference engines: immutable blocks by key, on volumes of the storage nodes.

`luciole.kvcache.store.Store` is where applications begin; docs/kvcache.md tells the rest.
"""
