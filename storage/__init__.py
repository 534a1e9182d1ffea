"""Storage service: targets in replication chains."""
