"""How well a model predicts corpora: perplexity, bits per byte, and the accuracies of a BERT."""
