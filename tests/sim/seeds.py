"""Seeds that show what is open. The tests leave them out; whoever mends the fault removes them.

Layer: tests. A seed is one history only as long as nothing in the services or here changes, so
each says in words what happens.
"""

OPEN: dict[int, str] = {
    287: "storm: two clients read one file differently at the end, since fsync asks every chain of "
         "a file (histories moved then, the others may hold now); not traced yet",
    394: "pairs: a chunk is removed while its head holds an update that it could not pass on; the "
         "update stays pending there, and the chunk on that replica alone: fsck reports an orphan",
    492: "splits: a cell of a file that was written and acknowledged reads as zeros, as if a cut "
         "or a removal had come late; not traced yet",
    409: "splits: 1001 heads chain 2 and stages a write that it cannot pass on; when all serve, "
         "the preferred order makes it the tail; asked what is committed, it commits what "
         "no replica before it has: one replica reads the new bytes, the others the old",
}
