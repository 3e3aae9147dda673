"""What a run costs, in closed form, before a process is started."""
