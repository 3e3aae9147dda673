"""What a model is trained on: one file per training objective, registered in `table.py`."""
