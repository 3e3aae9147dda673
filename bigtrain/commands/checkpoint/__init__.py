"""The commands `bigtrain checkpoint list`, `verify`, `diff`, `info` and `prune`."""
