"""The agent: the process on a node that runs ranks, and its messages to the supervisor."""
