"""What models and planners are asked by the command line."""
