"""Learning inside a learned model, whatever the learner: MBPO, deep Dyna."""
