"""Sinks for the metrics of a run. A sink never stops training."""
