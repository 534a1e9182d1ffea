"""What clients do in a simulated world, each beside a model of what must come of it."""
