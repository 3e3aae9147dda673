"""What a model is: megatron-core layers, the names of its weights, and how they begin."""
