"""Learning from recorded transitions alone: behaviour cloning, implicit Q-learning."""
