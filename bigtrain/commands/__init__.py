"""The commands of ``bigtrain``, one file each. Heavy packages are imported when a command runs."""
