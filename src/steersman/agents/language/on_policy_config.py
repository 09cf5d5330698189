"""Settings of what learns from answers of its own: how many, how they are drawn, what they earn, and beta."""

from __future__ import annotations

from dataclasses import dataclass

from steersman.agents.language.common import LanguageConfig
from steersman.config import Rules
from steersman.errors import UsageError


@dataclass(frozen=True)
class OnPolicyConfig(LanguageConfig):
    """What every method has that learns from its own answers."""

    learning_rate: float = 1e-5
    """The largest step size."""
    batch_size: int = 8
    """Prompts in one update, each answered ``group`` times."""
    group: int = 8
    """Answers to one prompt (K)."""
    reward: tuple[str, ...] = ()
    """What answers earn: a sum of terms, each a name or WEIGHT*NAME."""
    temperature: float = 1.0
    """Of the distribution that is drawn from and learned: logits are divided by it."""
    beta: float = 0.05
    """What a nat of KL(pi || reference) costs, in units of reward; at the start, where it adapts."""
    kl_target: float | None = None
    """Let beta move so that the divergence of whole answers becomes this, in nats; none: beta stays."""
    kl_horizon: int = 10_000
    """Answers that beta takes to react (kl_target)."""
    missing_end_penalty: float = 0.0
    """Taken off the reward of an answer that was cut off."""

    rules = Rules(
        at_least_one=("group", "kl_horizon"),
        positive=("kl_target",),
        non_negative=("beta", "missing_end_penalty"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise UsageError(
                f"temperature = {self.temperature:g}: answers are drawn, with probabilities that are learned; at 0 all "
                "to a prompt would be the likeliest one. Give a number above 0; 1 is the model's own."
            )
        if self.answers % (self.minibatches * self.accumulate):
            raise UsageError(
                f"batch_size = {self.batch_size} prompts of group = {self.group} answers are {self.answers}, which do "
                f"not go into {self.minibatches} minibatches of accumulate = {self.accumulate} equal parts. Give "
                "numbers that divide it."
            )

    @property
    def answers(self) -> int:
        """B, of all devices."""
        return self.batch_size * self.group

    @property
    def said(self) -> str:
        """What is done, for people."""
        earned = " + ".join(self.reward) or "the environment's rewards"
        return f"{self.group} answers each, which earn {earned} - {self.beta:g} KL"

    @property
    def passes(self) -> int:
        """How often the answers are gone over in one update."""
        return 1

    @property
    def minibatches(self) -> int:
        """Steps of the optimiser in one pass."""
        return 1


@dataclass(frozen=True)
class GroupedConfig(OnPolicyConfig):
    """Of methods whose baseline is the other answers to the same prompt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2:
            raise UsageError(
                "group = 1: an answer is compared with the others to its prompt, and alone it has none. Give 2 or "
                "more, or align with ppo, whose baseline is a value network."
            )


@dataclass(frozen=True)
class ReusedConfig(OnPolicyConfig):
    """Of methods that take several steps on the same answers."""

    num_epochs: int = 1
    """Passes over the answers in one update."""
    num_minibatches: int = 1
    """Steps of the optimiser in one pass."""

    rules = Rules(at_least_one=("num_epochs", "num_minibatches"))

    @property
    def passes(self) -> int:
        return self.num_epochs

    @property
    def minibatches(self) -> int:
        return self.num_minibatches
