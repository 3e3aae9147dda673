"""Signs of life of a rank: heartbeats, stacks on request, and the times that reveal slow ranks."""
