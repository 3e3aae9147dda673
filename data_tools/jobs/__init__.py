"""Shared by the jobs of this package: claiming a folder, running tasks, completion markers."""
