"""The command line: tyro over the Config dataclasses, rich for the terminal."""
