"""Short forms of node names and ranks, for the supervisor; see `bigtrain.config.node_names`."""

from bigtrain.config.node_names import compress_names, compress_numbers

__all__ = ["compress_names", "compress_numbers"]
