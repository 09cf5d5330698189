"""Learned environments: dynamics, reward and termination; and what else is learned of how states follow each other."""

from steersman.models.env import model_env
from steersman.models.model import Data, Model, Prediction

__all__ = ["Data", "Model", "Prediction", "model_env"]
