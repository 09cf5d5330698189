"""Continuous control from replay: DDPG, TD3, SAC, TQC, CrossQ."""
