"""Over the configs of all algorithms: one name is one thing everywhere, said once, and out of its range is refused."""

import dataclasses
from collections import defaultdict

import pytest

from steersman.agents import ALGORITHMS
from steersman.agents.parts.config import EpochsConfig, ReplayConfig
from steersman.cli.flags import documented, groups
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.run.settings import RunConfig, annotation

CONFIGS = {name: ALGORITHMS[name].config for name in ALGORITHMS}

# Named first by several classes: the same thing each time, of algorithms that share no group which could have it.
SEVERAL = {
    "gae_lambda": "its meaning differs in detail, and REINFORCE and actor_critic have none: each says its own",
    "normalize_advantages": "PPO within a minibatch, others within the rollout; TRPO always does, actor_critic never",
    "num_minibatches": "TRPO's are the critic's alone, whose epochs are value_epochs",
    "gamma": "IQL plays no rollouts",
    "n_step": "A2C's rewards are of its rollout, as many as are there where it is none",
    "batch_size": "what learns from data alone has no replay",
    "num_critics": "DDPG, between OffPolicyConfig and TD3, has one critic; IQL is offline",
    "sequence_length": "on-policy a part of a rollout, from replay of what is stored, with a burn-in",
    "policy_delay": "DDPG, between OffPolicyConfig and TD3, has none",
    "replay_capacity": "PETS keeps what its model learns from, and draws no batches for a policy",
    "learning_starts": "as replay_capacity",
}
KINDS = {"n_step": {"int", "int | None"}}  # annotations, where there are several


def test_a_field_is_named_first_by_one_class():
    """The help is grouped by it. An exception that is none any more has to go."""
    owners = defaultdict(set)
    for config in CONFIGS.values():
        for kind, names in groups(config):
            for name in names:
                owners[name].add(kind.__name__)
    assert {name for name, kinds in owners.items() if len(kinds) > 1} == set(SEVERAL)


def test_a_field_has_one_annotation_everywhere():
    kinds = defaultdict(set)
    for config in CONFIGS.values():
        for field in dataclasses.fields(config):
            kinds[field.name].add(annotation(field))
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == KINDS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_is_described_and_has_a_name_of_its_own(name):
    fields, said = {field.name for field in dataclasses.fields(CONFIGS[name])}, documented(CONFIGS[name])
    assert not [field for field in fields if len(said.get(field, "")) < 10]
    assert not fields & {field.name for field in dataclasses.fields(RunConfig)}


REACHED = {"encoder", "channels", "activation", "layer_norm", "hidden_sizes", "normalize_observations", "scale_rewards"}
REACHED |= {"learning_rate", "max_grad_norm", "anneal_learning_rate"}
WITHOUT = {"bc": {"scale_rewards"}, "pets": REACHED}  # it sees no reward; it has no policy


@pytest.mark.parametrize("name", CONFIGS)
def test_every_algorithm_reaches_the_same_choices(name):
    fields = {field.name for field in dataclasses.fields(CONFIGS[name])}
    assert REACHED - fields == WITHOUT.get(name, set())


def rules_of(config):
    """Every rule of a config, its own and its groups': (kind, field)."""
    for part in config.__mro__:
        for kind, fields in vars(part).get("rules", Rules())._asdict().items():
            for field in fields or ():
                yield part, kind, field


@pytest.mark.parametrize("name", CONFIGS)
def test_rules_are_of_fields_that_the_class_has(name):
    for part, kind, field in rules_of(CONFIGS[name]):
        assert field in {f.name for f in dataclasses.fields(part)}, f"{part.__name__}: {kind} of {field}"


OUTSIDE = {
    "at_least_one": (0, 1.5, -1),
    "positive": (0.0, -1.0, float("nan"), float("inf")),
    "non_negative": (-1.0, float("nan")),
    "fraction": (-0.1, 1.1, float("nan")),
    "choices": ("no such thing", None),
    "sizes": ((0,), (8, -1), (8.5,)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_out_of_range_is_refused_by_name(name):
    config = CONFIGS[name]
    for _, kind, field in rules_of(config):
        for value in OUTSIDE.get(kind, ()):
            with pytest.raises(UsageError, match=rf": {field} = .*; it must be ") as caught:
                config(**{field: value})
            assert ("out of range" in str(caught.value)) == (kind != "choices")  # a word has no range


@pytest.mark.parametrize("name", CONFIGS)
def test_no_number_is_nan(name):
    for field in dataclasses.fields(CONFIGS[name]):
        if isinstance(field.default, float):
            with pytest.raises(UsageError, match=rf"{field.name} = nan"):
                CONFIGS[name](**{field.name: float("nan")})


def test_every_number_has_a_rule():
    """But for those that may be anything."""
    free = {"log_std_init", "target_entropy", "v_min", "v_max", "num_atoms"}  # the last: checked where it is used
    free |= {"plan_risk", "log_variance_floor"}  # the last likewise
    for config in CONFIGS.values():
        ruled = {field for _, _, field in rules_of(config)}
        numbers = {f.name for f in dataclasses.fields(config) if annotation(f).split(" ")[0] in ("int", "float")}
        texts = {f.name for f in dataclasses.fields(config) if annotation(f) == "str"}
        assert numbers - ruled <= free
        assert texts <= ruled


def test_rules_and_defaults_are_inherited_and_come_on_top():
    @dataclasses.dataclass(frozen=True)
    class Both(EpochsConfig, ReplayConfig):
        num_epochs: int = 7
        own: float = 0.5

        rules = Rules(fraction=("own",))

    assert (Both().num_epochs, Both().num_minibatches, Both().batch_size) == (7, 4, 256)
    for wrong in ({"num_epochs": 0}, {"update_ratio": 0.0}, {"own": 2.0}):
        with pytest.raises(UsageError, match=f"Both: {next(iter(wrong))} = .*Default: "):
            Both(**wrong)


def test_crossq_has_no_second_normalisation():
    with pytest.raises(UsageError, match="CrossQ: layer_norm = True; it must be left out: batch renorm"):
        CONFIGS["crossq"](layer_norm=True)
