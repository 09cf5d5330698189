"""Algorithms side by side, over the same seeds."""
