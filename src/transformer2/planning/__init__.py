"""What a run costs before it is started: time, memory and disk of its jobs."""
