"""Pure client logic: layout and planning."""
