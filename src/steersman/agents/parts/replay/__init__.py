"""Learning from replay: a learner of batches joined with a memory, sequences for agents that remember, n steps."""
