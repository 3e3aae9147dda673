"""The commands of `bigtrain data`, thin: each imports its work when it is called."""
