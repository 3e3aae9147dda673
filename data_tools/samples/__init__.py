"""Sample tables: samples that are not plain windows, planned once and stored with the corpus."""
