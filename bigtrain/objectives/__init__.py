"""Training objectives: one file each, registered in `table.py`."""
