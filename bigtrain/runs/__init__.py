"""The record of a run: its folder, lock, resume rules, rewind, skips and report. No torch."""
