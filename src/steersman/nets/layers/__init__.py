"""What networks are built of: linear maps, MLPs, convolutions, normalisation."""
