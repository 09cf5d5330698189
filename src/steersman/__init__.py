"""Reinforcement learning, from a Bellman equation to a policy that runs on the machine."""
