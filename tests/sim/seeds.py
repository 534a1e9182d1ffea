"""Seeds that show what is open. The tests leave them out; whoever mends the fault removes them.

Layer: tests. A seed is one history only as long as nothing in the services or here changes, so
each says in words what happens.
"""

OPEN: dict[int, str] = {}

# Of the cores (`--core`).
CORE_OPEN: dict[int, str] = {}
