"""Which samples a rank reads, as a function of their numbers, and the batches made of them."""
