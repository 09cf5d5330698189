"""Sampled answers on finite problems: bandits, prediction, control."""
