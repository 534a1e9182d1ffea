"""What inference engines load, each by its own out-of-tree mechanism (docs/kvcache.md).

One module for each plug: it imports its engine, so nothing else imports it.
"""
