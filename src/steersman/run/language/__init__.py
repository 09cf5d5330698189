"""Language models on disk: found by name, read, written."""
