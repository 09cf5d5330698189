"""What a run is made of, as ``steersman.run.prepare`` makes it: its setup, recorded data."""
