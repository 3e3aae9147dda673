"""Cleaning: drops or changes documents by named rules, and counts what each rule does."""
