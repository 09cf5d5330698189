"""Policy gradients: REINFORCE, the online actor-critic, A2C, IMPALA, TRPO, PPO."""
