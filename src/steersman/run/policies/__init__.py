"""Policies over a run's life: evaluated while it trains, the best kept, taken over from another run."""
