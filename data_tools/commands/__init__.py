"""The commands of `bigtrain data`; each imports its dependencies only when it is called."""
