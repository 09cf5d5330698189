"""Exact answers on finite problems."""
