"""Tasks with costs: robots with a limit of speed, a point among hazards, and small ones whose answer is known."""
