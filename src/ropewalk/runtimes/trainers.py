"""Blocks to paste for training stacks, so that trainer and rollout rotate alike: both read the extended checkpoint.

Whatever a stack offers for scaling of its own is left alone on purpose: every one of them knows fewer fields than the
checkpoint says, and a second place to say it is a second thing to be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ropewalk.errors import UsageError, one_line
from ropewalk.runtimes.answer import answer
from ropewalk.runtimes.base import Job


def _reply(job: Job) -> int:
    """Tokens of the window that blocks set aside for the answer."""
    return max(1, min(1024, job.target_length // 4))


def _trl(job: Job, model: str) -> str:
    return f"""# TRL: the same folder for the trainer and for its vLLM server.
#   trl vllm-serve --model {model} --max-model-len {job.target_length}
from trl import GRPOConfig, GRPOTrainer
arguments = GRPOConfig(use_vllm=True, vllm_mode="server", max_completion_length={_reply(job)})
trainer = GRPOTrainer(model="{model}", args=arguments, ...)
# supervised: SFTConfig(max_length={job.target_length}) and SFTTrainer(model="{model}", ...)
"""


def _verl(job: Job, model: str) -> str:
    return f"""# verl: actor, reference and rollout read one folder; override_config stays without rope keys.
actor_rollout_ref:
  model:
    path: {model}
  rollout:
    name: vllm
    max_model_len: {job.target_length}
data:
  max_prompt_length: {job.target_length - _reply(job)}
  max_response_length: {_reply(job)}
"""


def _axolotl(job: Job, model: str) -> str:
    return f"""# axolotl: no overrides_of_model_config for rope, the folder says it already.
base_model: {model}
sequence_len: {job.target_length}
"""


def _llama_factory(job: Job, model: str) -> str:
    return f"""# LLaMA-Factory: leave rope_scaling unset; what it computes has a factor of its own, 2.0 at inference.
model_name_or_path: {model}
cutoff_len: {job.target_length}
infer_backend: vllm
vllm_maxlen: {job.target_length}
"""


STACKS: dict[str, Callable[[Job, str], str]] = {
    "trl": _trl,
    "verl": _verl,
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
}


def training_block(stack: str, job: Job, model: str | Path) -> str:
    """The block for one stack, with a warning where its rollout (vLLM) would rotate differently from its trainer."""
    name = stack.strip().lower().replace("_", "-")
    if name not in STACKS:
        raise UsageError(f"no training stack {one_line(stack, 40)!r}", hint=f"use one of {', '.join(STACKS)}")
    block = STACKS[name](job, str(model))
    trainer, rollout = answer("transformers", job), answer("vllm", job)
    lines = [f"# trainer (transformers): {trainer.outcome}; rollout (vLLM): {rollout.outcome}"]
    if rollout.exact and rollout.way is not None and "longrope-mscales" in rollout.way.forms:
        # The plain folder lacks the two names under which vLLM takes the attention factor.
        entry = {"short_mscale": job.schedule.attention_factor, "long_mscale": job.schedule.attention_factor}
        lines.append(
            f"# before that, add to rope_parameters and rope_scaling in config.json: {json.dumps(entry)}"
        )
        lines.append("# (stock transformers warns of them once and computes the same)")
    elif not rollout.exact:
        lines.append(f"# WARNING: {rollout.describe()}")
    return "\n".join(lines) + "\n" + block
