"""Checks the nodes of a job before its first ranks start, and names nodes that must not be used."""
