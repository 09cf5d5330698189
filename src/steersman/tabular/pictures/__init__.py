"""Finite problems and their answers, drawn."""
