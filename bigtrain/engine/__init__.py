"""DeepSpeed, driven by megatron-core's schedule."""
