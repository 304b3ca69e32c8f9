"""What an extension will need before anything is run: memory, cost, options side by side, advice. Numpy only."""

from ropewalk.planning.advice import Advice, advise
from ropewalk.planning.cost import FineTuneCost, fine_tune_cost
from ropewalk.planning.memory import InferenceMemory, TrainingMemory, inference_memory, training_memory
from ropewalk.planning.options import Option, options_for
from ropewalk.planning.setups import Setup, choose_setup
from ropewalk.planning.shape import ModelShape

__all__ = [
    "Advice",
    "FineTuneCost",
    "InferenceMemory",
    "ModelShape",
    "Option",
    "Setup",
    "TrainingMemory",
    "advise",
    "choose_setup",
    "fine_tune_cost",
    "inference_memory",
    "options_for",
    "training_memory",
]
