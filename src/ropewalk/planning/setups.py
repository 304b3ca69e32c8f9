"""Set-ups of a fine-tune: what each needs on one device, and which is the plainest that fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ropewalk.planning.memory import TrainingMemory, TrainingSetting, training_memory
from ropewalk.planning.shape import ModelShape, Stored

LORA_RANK = 16
# What model.quantise: nf4 makes of the projections: 64 values share one float32.
NF4 = Stored("nf4", 4.5, packed=True)

# From the plainest to the leanest.
SETTINGS: dict[str, dict[str, Any]] = {
    "full, plain": {"checkpointing": False, "chunked_loss": False},
    "full, checkpointed": {"checkpointing": True, "chunked_loss": False},
    "full, checkpointed, chunked loss": {"checkpointing": True, "chunked_loss": True},
    "full, chunked loss, offloaded": {"checkpointing": True, "chunked_loss": True, "offload": "cpu"},
    "LoRA 16, checkpointed, chunked loss": {
        "checkpointing": True,
        "chunked_loss": True,
        "lora_rank": LORA_RANK,
    },
    "LoRA 16, chunked loss, offloaded": {
        "checkpointing": True,
        "chunked_loss": True,
        "lora_rank": LORA_RANK,
        "offload": "cpu",
    },
    "LoRA 16 on NF4, chunked loss": {
        "checkpointing": True,
        "chunked_loss": True,
        "lora_rank": LORA_RANK,
        "stored": NF4,
    },
    "LoRA 16 on NF4, chunked loss, offloaded": {
        "checkpointing": True,
        "chunked_loss": True,
        "lora_rank": LORA_RANK,
        "stored": NF4,
        "offload": "cpu",
    },
}
USUAL = "full, checkpointed, chunked loss"
LEAN = "LoRA 16, checkpointed, chunked loss"


@dataclass(frozen=True)
class Setup:
    """One way to train on `devices` devices, `sharing` of which hold one sequence together."""

    name: str
    devices: int
    sharing: int
    memory: TrainingMemory = field(repr=False)
    stored: Stored | None = None

    @property
    def lora(self) -> bool:
        """Whether only adapters are trained."""
        return bool(self.memory.setting.lora_rank)

    @property
    def quantises(self) -> bool:
        """Whether weights are packed while they are loaded."""
        return self.memory.setting.stored is not None

    @property
    def offloads(self) -> bool:
        """Whether activations leave the device between forward and backward."""
        return bool(self.memory.setting.offload != "none")

    def recipe(self) -> dict[str, Any]:
        """The blocks of a recipe that make this set-up; the loss is chunked in any case."""
        setting = self.memory.setting
        blocks: dict[str, Any] = {"precision": "bfloat16"}
        if setting.checkpointing:
            blocks["memory"] = {"checkpointing": True}
        if self.offloads:
            blocks["memory"] |= {"offload": setting.offload}
        if self.lora:
            blocks["lora"] = {"rank": LORA_RANK}
        if self.devices > 1:
            shared = {"context_parallel": self.sharing} if self.sharing > 1 else {}
            # Packed weights are not split: each process holds them all.
            packed = self.quantises or (self.lora and self.stored is not None and self.stored.packed)
            blocks["engine"] = {"name": "ddp" if packed else "fsdp2"} | shared
        return blocks

    def model(self) -> dict[str, Any]:
        """What a recipe's `model` says beside its path."""
        kept = {"dtype": "bfloat16"} if self.lora else {}
        return kept | ({"quantise": "nf4"} if self.quantises else {})


def setups(shape: ModelShape, tokens: int, *, dtype: str, devices: int, sharing: int = 1) -> dict[str, Setup]:
    """Every set-up for one sequence of `tokens` tokens; weights that are packed already leave those of LoRA."""
    packed = shape.stored is not None and shape.stored.packed
    return {
        name: Setup(
            name,
            devices,
            sharing,
            training_memory(
                shape, tokens, TrainingSetting(dtype=dtype, shards=devices, sharing=sharing, **setting)
            ),
            shape.stored,
        )
        for name, setting in SETTINGS.items()
        # Quantised weights, packed or widened, are not packed a second time.
        if not ((packed and "lora_rank" not in setting) or (shape.stored is not None and "stored" in setting))
    }


def choose_setup(
    shape: ModelShape, tokens: int, *, dtype: str, devices: int, memory_bytes: int | None
) -> tuple[dict[str, Setup], Setup]:
    """All set-ups, and the plainest that fits.

    All weights are trained where that fits in any way; as few devices as possible share a sequence, and they do before
    anything is offloaded; weights are packed last of all. Training here never makes whole logits: the set-ups that do
    are for comparison. Where nothing fits, the leanest of all is chosen.
    """
    tried = {
        number: setups(shape, tokens, dtype=dtype, devices=devices, sharing=number)
        for number in range(1, devices + 1)
        # A row is dealt out in two pieces a device, one from each end, so that causal work comes out even.
        if number == 1 or (devices % number == 0 and tokens % (2 * number) == 0)
    }
    if memory_bytes is None:
        return tried[1], tried[1].get(USUAL) or tried[1][LEAN]
    candidates = [
        setup for made in tried.values() for setup in made.values() if setup.memory.setting.chunked_loss
    ]
    fitting = [setup for setup in candidates if setup.memory.total <= memory_bytes]
    chosen = (
        min(fitting, key=lambda setup: (setup.lora, setup.quantises, setup.offloads, setup.sharing))
        if fitting
        else min(candidates, key=lambda setup: setup.memory.total)
    )
    return tried[chosen.sharing], chosen
