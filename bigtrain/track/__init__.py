"""Where a run's numbers go. A sink never stops training."""
