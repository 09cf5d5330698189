"""What a run leaves on disk: folder, checkpoints, logs, recorded data. Knows no agent, environment or loop."""
