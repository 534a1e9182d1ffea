"""Real clusters under faults: processes killed and stopped while applications work."""
