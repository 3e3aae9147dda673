"""The commands of `bigtrain data`; each imports what it needs only when it is called."""
