"""What algorithms are made of: groups of settings, the training of a network, minibatches, replay, wrappers, checks."""
