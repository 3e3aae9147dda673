"""Finds and reads text: files, globs and streams, in the same order on every machine."""
