"""Blocks to paste for training stacks, so that trainer and rollout rotate alike: both read the extended checkpoint.

Whatever a stack offers for scaling of its own is left alone on purpose: every one of them knows fewer fields than the
checkpoint says, and a second place to say it is a second thing to be wrong. Each printed key was found in the
stack's source, in the release that is named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ropewalk.errors import UsageError, one_line
from ropewalk.runtimes.answer import answer
from ropewalk.runtimes.base import Job


def _reply(job: Job) -> int:
    """Tokens of the window that blocks set aside for the answer."""
    return max(1, min(1024, job.target_length // 4))


def _trl(job: Job, model: str) -> str:
    return f"""# TRL: the same folder for the trainer and for its vLLM server.
#   trl vllm-serve --model {model} --max_model_len {job.target_length}
from trl import GRPOConfig, GRPOTrainer
arguments = GRPOConfig(use_vllm=True, vllm_mode="server", max_completion_length={_reply(job)})
trainer = GRPOTrainer(model="{model}", args=arguments, ...)
# vLLM in the trainer's own process: GRPOConfig(vllm_mode="colocate", vllm_max_model_length={job.target_length})
# supervised: SFTConfig(max_length={job.target_length}) and SFTTrainer(model="{model}", ...)
"""


def _verl(job: Job, model: str) -> str:
    return f"""# verl: actor, reference and rollout read one folder. override_config stays without rope keys: it
# changes the trainer's configuration alone, and the rollout would rotate as the folder says.
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
    return f"""# axolotl: no overrides_of_model_config for rope, the folder says it already (they change the trainer
# alone).
base_model: {model}
sequence_len: {job.target_length}
# with rl: grpo, `axolotl vllm-serve FILE` serves base_model:
vllm:
  max_model_len: {job.target_length}
trl:
  use_vllm: true
  vllm_mode: server
  max_completion_length: {_reply(job)}
"""


def _llama_factory(job: Job, model: str) -> str:
    return f"""# LLaMA-Factory, for llamafactory-cli train: leave rope_scaling unset. What it computes has a factor of
# its own (whole numbers in training, 2.0 at inference), and its vLLM engine refuses it.
model_name_or_path: {model}
cutoff_len: {job.target_length}
# For llamafactory-cli chat or api, a file of its own (in the first, training would ask for vLLM too):
#   model_name_or_path: {model}
#   infer_backend: vllm
#   vllm_maxlen: {job.target_length}
"""


@dataclass(frozen=True)
class Stack:
    """A training stack: its block, and where each key of it was read in the stack's source."""

    project: str
    version: str
    commit: str
    block: Callable[[Job, str], str]
    # By printed key: the file, and the class or function that has it.
    keys: Mapping[str, str]

    def read_in(self) -> str:
        """How the block is known, as a comment."""
        places = dict.fromkeys(self.keys.values())
        return f"# read in {self.project} {self.version} ({self.commit[:9]}), not run: {'; '.join(places)}"


_VERL_ROLLOUT = "verl/workers/config/rollout.py RolloutConfig"
_VERL_DATA = "verl/trainer/config/data/legacy_data.yaml"
_AXOLOTL_TRL = "axolotl/utils/schemas/trl.py TRLConfig"
_FACTORY_VLLM = "llamafactory/hparams/model_args.py VllmArguments"
STACKS: dict[str, Stack] = {
    "trl": Stack(
        "trl",
        "1.10.0.dev0",
        "f2cd57710ae345ea6428ae95363267fcf38a3dc8",
        _trl,
        {
            "--model": "trl/scripts/vllm_serve.py ScriptArguments",
            "--max_model_len": "trl/scripts/vllm_serve.py ScriptArguments",
            "use_vllm": "trl/trainer/grpo_config.py GRPOConfig",
            "vllm_mode": "trl/trainer/grpo_config.py GRPOConfig",
            "vllm_max_model_length": "trl/trainer/grpo_config.py GRPOConfig",
            "max_completion_length": "trl/trainer/grpo_config.py GRPOConfig",
            "max_length": "trl/trainer/sft_config.py SFTConfig",
        },
    ),
    "verl": Stack(
        "verl",
        "0.10.0.dev",
        "1dda039b9c6311889a9c9a26040677e1254814f9",
        _verl,
        {
            "path": "verl/workers/config/model.py HFModelConfig.__post_init__",
            "name": _VERL_ROLLOUT,
            "max_model_len": "verl/workers/rollout/vllm_rollout/vllm_async_server.py launch_server",
            "max_prompt_length": _VERL_DATA,
            "max_response_length": _VERL_DATA,
        },
    ),
    "axolotl": Stack(
        "axolotl",
        "0.18.0",
        "067b021c8b87a9e5e380b9173c704cf7340e30f5",
        _axolotl,
        {
            "base_model": "axolotl/loaders/utils.py load_model_config",
            "sequence_len": "axolotl/utils/schemas/config.py AxolotlInputConfig",
            "max_model_len": "axolotl/cli/vllm_serve.py do_vllm_serve",
            "use_vllm": _AXOLOTL_TRL,
            "vllm_mode": _AXOLOTL_TRL,
            "max_completion_length": _AXOLOTL_TRL,
        },
    ),
    "llama-factory": Stack(
        "llamafactory",
        "0.9.6.dev0",
        "ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30",
        _llama_factory,
        {
            "model_name_or_path": "llamafactory/model/model_utils/rope.py configure_rope",
            "cutoff_len": "llamafactory/hparams/data_args.py DataArguments",
            "infer_backend": "llamafactory/hparams/parser.py get_infer_args, _check_extra_dependencies",
            "vllm_maxlen": _FACTORY_VLLM,
        },
    ),
}


def training_block(stack: str, job: Job, model: str | Path) -> str:
    """The block for one stack, with a warning where its rollout (vLLM) would rotate differently from its trainer."""
    name = stack.strip().lower().replace("_", "-")
    if name not in STACKS:
        raise UsageError(f"no training stack {one_line(stack, 40)!r}", hint=f"use one of {', '.join(STACKS)}")
    known = STACKS[name]
    block = known.block(job, str(model))
    trainer, rollout = answer("transformers", job), answer("vllm", job)
    lines = [
        known.read_in(),
        f"# trainer (transformers): {trainer.outcome}; rollout (vLLM): {rollout.outcome}",
    ]
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
