"""Cleaning: which documents are worth training on, by named rules that are counted."""
