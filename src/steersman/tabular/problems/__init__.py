"""Finite problems: built, read from files, the classics."""
