"""What an extension will need before anything is run: memory, cost, options side by side, advice. Numpy only."""

from ropewalk.planning.advice import Advice, advise, keep
from ropewalk.planning.cost import FineTuneCost, fine_tune_cost
from ropewalk.planning.memory import (
    InferenceMemory,
    TrainingMemory,
    TrainingSetting,
    inference_memory,
    kv_cache_bytes,
    training_memory,
)
from ropewalk.planning.options import Option, option, options_for
from ropewalk.planning.setups import Setup, choose_setup
from ropewalk.planning.shape import Experts, Latent, ModelShape, Stored

__all__ = [
    "Advice",
    "Experts",
    "FineTuneCost",
    "InferenceMemory",
    "Latent",
    "ModelShape",
    "Option",
    "Setup",
    "Stored",
    "TrainingMemory",
    "TrainingSetting",
    "advise",
    "choose_setup",
    "fine_tune_cost",
    "inference_memory",
    "keep",
    "kv_cache_bytes",
    "option",
    "options_for",
    "training_memory",
]
