"""Pure rules of membership: chain transitions and placement."""
