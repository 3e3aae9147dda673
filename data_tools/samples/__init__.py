"""Sample tables for packed rows, padded rows and sentence pairs, stored with the corpus."""
