"""The filesystem as a Python library: `luciole.connect`."""
