"""Process groups, pipeline schedules and devices."""
