"""Samples that are no plain windows, planned once and kept as a sealed table beside the corpus."""
