"""Pure namespace operations: all effects go through the transaction."""
