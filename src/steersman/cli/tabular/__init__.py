"""``steersman tabular``: solve, learn or draw a finite problem."""
