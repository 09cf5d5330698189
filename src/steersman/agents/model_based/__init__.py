"""Agents that act or learn by a learned model: by planning in it, or by learning inside it."""
