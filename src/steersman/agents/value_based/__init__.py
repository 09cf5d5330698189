"""Learning action values: DQN and its family, PQN."""
