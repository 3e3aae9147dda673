"""How good a trained model is: baselines to hold it against, samples, and the run's report."""
