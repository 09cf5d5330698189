"""One measurement of rejax: PPO on gymnax's environment, compiled whole. Prints one JSON object.

Runs in rejax's own environment. ``--threads``: the cores that the process may use. Evaluations are taken out; the
program is compiled, run once to warm up, and timed over the next ``--calls`` runs of it, which go on with its state.
"""

import argparse
import importlib.metadata
import json
import os
import time


def main(args: argparse.Namespace) -> None:
    shape = args.shape
    # XLA takes its number of threads from the cores that it may use, when it starts.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])

    import jax
    import jax.numpy as jnp
    import rejax

    rollout = shape["num_envs"] * shape["rollout_length"]
    total = -(-args.steps // (rollout * args.calls)) * rollout  # of one call and seed
    algorithm = rejax.PPO.create(
        env=shape["environment"],
        num_envs=shape["num_envs"],
        num_steps=shape["rollout_length"],
        num_epochs=shape["epochs"],
        num_minibatches=rollout // shape["minibatch_size"],
        learning_rate=shape["learning_rate"],
        gamma=shape["gamma"],
        gae_lambda=shape["gae_lambda"],
        clip_eps=shape["clip"],
        vf_coef=shape["value_coefficient"],
        ent_coef=shape["entropy_coefficient"],
        max_grad_norm=shape["max_grad_norm"],
        agent_kwargs={"hidden_layer_sizes": tuple(shape["hidden_sizes"]), "activation": "tanh"},
        total_timesteps=total,
        eval_freq=total,
        skip_initial_evaluation=True,
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: jnp.zeros(()))

    def train(state):
        return algorithm.train(train_state=state)[0]

    tick = time.perf_counter()
    keys = jax.random.split(jax.random.PRNGKey(0), args.seeds)
    if args.seeds == 1:
        state = jax.jit(algorithm.init_state)(keys[0])
        program = jax.jit(train).lower(state).compile()
    else:
        state = jax.jit(jax.vmap(algorithm.init_state))(keys)
        program = jax.jit(jax.vmap(train)).lower(state).compile()
    compile_seconds = time.perf_counter() - tick

    state = jax.block_until_ready(program(state))
    before, tick = int(jnp.sum(state.global_step)), time.perf_counter()
    for _ in range(args.calls):
        state = program(state)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - tick
    steps = int(jnp.sum(state.global_step)) - before
    trained = (state.actor_ts.params, state.critic_ts.params)
    print(
        json.dumps(
            {
                "steps": steps,
                "seconds": seconds,
                "steps_per_second": steps / seconds,
                "compile_seconds": compile_seconds,
                "settings": {
                    "num_envs": algorithm.num_envs,
                    "rollout_length": algorithm.num_steps,
                    "epochs": algorithm.num_epochs,
                    "minibatch_size": algorithm.minibatch_size,
                    "parameters": sum(p.size for p in jax.tree.leaves(trained)) // args.seeds,
                    "learning_rate": algorithm.learning_rate,
                    "gamma": algorithm.gamma,
                    "gae_lambda": algorithm.gae_lambda,
                    "clip": algorithm.clip_eps,
                    "value_coefficient": algorithm.vf_coef,
                    "entropy_coefficient": algorithm.ent_coef,
                    "max_grad_norm": algorithm.max_grad_norm,
                    "normalize_observations": algorithm.normalize_observations,
                    "normalize_rewards": algorithm.normalize_rewards,
                },
                "versions": {name: importlib.metadata.version(name) for name in ("rejax", "gymnax", "jax")},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=json.loads, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--calls", type=int, default=4)
    main(parser.parse_args())
