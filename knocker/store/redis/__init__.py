"""A whitelist that several gates share, in an engine that speaks Redis' protocol (docs/cluster.md)."""
