"""Models of megatron-core layers; global names and initial values of their weights."""
