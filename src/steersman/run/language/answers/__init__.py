"""Answers of a model: drawn to be learned from, judged by rewards that have names."""
