"""What the jobs of this package share: claiming a folder, running tasks, completion markers."""
