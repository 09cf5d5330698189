"""Partial observation: tasks that need memory, wrappers that hide, and finite POMDPs as environments."""
