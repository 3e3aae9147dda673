"""DeepSpeed, and the seam where megatron-core's schedule meets it."""
