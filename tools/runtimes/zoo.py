"""Tiny random models and the schedules that are tried on them, each as a folder with what stock transformers computes.

    python tools/runtimes/zoo.py OUT [ARCHITECTURE ...]

OUT/ARCHITECTURE/base holds the model; OUT/ARCHITECTURE/cases.json every schedule, and for each the log probabilities of
transformers in float32 for prompts of 1, 2 and 4 times the original window. A name may carry a variant behind a hyphen.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "models")]

import tiny  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ropewalk.methods import schedule  # noqa: E402
from ropewalk.methods.longrope import longrope_attention_factor  # noqa: E402
from ropewalk.models.facts import read_facts  # noqa: E402
from ropewalk.models.writing.carrier import carry  # noqa: E402
from ropewalk.schedule import FrequencySchedule  # noqa: E402

WINDOW, FACTOR = 256, 4
LENGTHS = tuple(WINDOW * times for times in (1, 2, FACTOR))
# Every form that a program may honour or not, in an order where simpler ones come first.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "ntk": ("ntk", {}),
    "linear": ("linear", {}),
    "llama3": ("llama3", {}),
    "yarn": ("yarn", {}),
    "yarn-attention": ("yarn", {"attention_factor": 1.0}),
    "yarn-hot": ("yarn", {"attention_factor": 1.3}),
    "yarn-betas": ("yarn", {"beta_fast": 16.0, "beta_slow": 2.0}),
    "yarn-truncate": ("yarn", {"truncate": False}),
    "yarn-mscale": ("yarn", {"mscale": 1.0, "mscale_all_dim": 0.5}),
    "yarn-every": ("yarn", {"attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}),
    "mrrope-pro": ("mrrope-pro", {}),
    # The same set with the attention factor that programs compute themselves for such lists.
    "mrrope-pro-formula": ("mrrope-pro", {}),
    "longrope-two-sets": ("longrope", {}),
}
ARCHITECTURES = (
    "llama", "qwen3", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3_moe", "qwen3_5_text", "qwen3_5_moe_text",
    "qwen3_5", "qwen3_5_moe",
    "gemma", "gemma2", "gemma3_text", "gemma3", "gemma4_text", "phi", "phi3", "phimoe", "olmo",
    "olmo2", "olmo3", "olmoe",
    "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "gpt_oss", "glm4", "glm4_moe", "granite", "granitemoe",
    "smollm3", "falcon", "gpt_neox", "starcoder2", "minicpm3", "stablelm", "nemotron", "seed_oss", "exaone4",
    "ernie4_5", "hunyuan_v1_dense", "qwen3_next", "apertus", "arcee", "ministral", "ministral3",
    "llama-tied", "cohere2-window", "gemma2-window", "falcon-grouped", "deepseek_v2-lite", "gpt_neox-serial",
    "stablelm-parallel",
)  # fmt: skip
# Composites whose text model has a causal class of its own: what its names begin with in them.
_INSIDE = {"qwen3_5": "model.language_model.", "qwen3_5_moe": "model.language_model."}
_CHANGES: dict[str, dict[str, Any]] = {
    # Fewer layers than its pattern of local and global ones would make mlx-lm fail for another reason.
    "gemma3_text": {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
                    "query_pre_attn_scalar": 32},
    # vLLM lets its sliding layers see one token more than transformers does.
    "cohere2": {"sliding_window": 8192},
    # mlx-lm leaves their sliding window out: within it the rotation alone is compared.
    "gemma2": {"sliding_window": 8192, "query_pre_attn_scalar": 32},
    "gemma3": {"query_pre_attn_scalar": 32},
    "gemma2-window": {"query_pre_attn_scalar": 32},
    "mistral": {"sliding_window": None},
    # Its default of 1 makes attention so sharp that rounding alone moves log probabilities by 2e-3.
    "granite": {"attention_multiplier": 32**-0.5, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
                "logits_scaling": 4.0},
    "granitemoe": {"attention_multiplier": 32**-0.5, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
                   "logits_scaling": 4.0},
    # As in the published ones; the class's default is another.
    "qwen3_moe": {"norm_topk_prob": True},
    "deepseek_v2": {"first_k_dense_replace": 1},
    "deepseek_v3": {"first_k_dense_replace": 1, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32,
                    "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
    # llama.cpp tells this one by its number of layers.
    "deepseek_v2-lite": {"first_k_dense_replace": 1, "q_lora_rank": None, "routed_scaling_factor": 2.5,
                         "num_hidden_layers": 26},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}},
    "apertus": {"rope_parameters": {"rope_type": "default", "rope_theta": 12000000.0}},
    "ministral3": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "llama_4_scaling_beta": 0.1,
                            "original_max_position_embeddings": WINDOW}
    },
    # Its class takes the head's width from hidden_size; vLLM takes the width between from it too.
    "falcon": {"alibi": False, "ffn_hidden_size": 512},
    "falcon-grouped": {"alibi": False, "ffn_hidden_size": 512, "new_decoder_architecture": True, "num_kv_heads": 2},
    "llama-tied": {"tie_word_embeddings": True},
    "gpt_neox-serial": {"use_parallel_residual": False},
    "stablelm-parallel": {"use_parallel_residual": True},
}  # fmt: skip


def main(out: str, *names: str) -> None:
    """Write every architecture that is not there yet."""
    warnings.filterwarnings("ignore")
    for name in names or ARCHITECTURES:
        folder = Path(out) / name
        if (folder / "cases.json").exists():
            continue
        try:
            count = make(name, folder)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        else:
            print(f"{name}: {count} cases", flush=True)


def make(name: str, folder: Path) -> int:
    """One architecture's model, cases and references."""
    if name in _INSIDE:
        count = make(f"{name}_text", folder)
        wrap(folder, name)
        return count
    model = tiny_model(name)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder / "base")
    del model
    config = json.loads((folder / "base" / "config.json").read_text(encoding="utf-8"))
    config |= _as_published(config)
    (folder / "base" / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    cases = []
    for label, made, layers in schedules(config):
        case: dict[str, Any] = {"name": label, "layers": layers, "schedule": made.to_json()}
        try:
            carried = carry(config, made, target_length=FACTOR * WINDOW, layers=layers)
        except Exception as error:
            case["refused"] = str(error)[:300]
        else:
            case["config"] = carried.config
            case["reference"] = reference(folder / "base", carried.config)
            text = read_facts(config).text
            if any("gelu" in str(text.get(key)) for key in ("hidden_act", "hidden_activation", "activation")):
                case["reference_llama.cpp"] = reference(folder / "base", carried.config, HalfGelu)
        cases.append(case)
    document = {"architecture": config["model_type"], "prompts": prompts(), "cases": cases}
    (folder / "cases.json").write_text(json.dumps(document), encoding="utf-8")
    return len(cases)


def wrap(folder: Path, name: str) -> None:
    """A text model as it is published: inside a composite, by the names that it has there. Its numbers stay."""
    weights, path = folder / "base" / "model.safetensors", folder / "base" / "config.json"
    renamed = {key.replace("model.", _INSIDE[name], 1): value for key, value in load_file(weights).items()}
    save_file(renamed, weights, metadata={"format": "pt"})
    config = json.loads(path.read_text(encoding="utf-8"))
    outer = {"model_type": name, "text_config": config, "tie_word_embeddings": config["tie_word_embeddings"]}
    path.write_text(json.dumps(outer, indent=2), encoding="utf-8")
    document = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    (folder / "cases.json").write_text(json.dumps(document | {"architecture": name}), encoding="utf-8")


def _as_published(config: dict[str, Any]) -> dict[str, Any]:
    """Keys that published checkpoints carry and other programs ask for, which saving with transformers 5 leaves out."""
    entry = config.get("rope_parameters") or {}
    found = {"num_experts": config["num_local_experts"]} if "num_local_experts" in config else {}
    found |= {name: entry[name] for name in ("rope_theta", "partial_rotary_factor") if name in entry}
    if config["model_type"] == "gemma4_text":
        # The width of its full-attention heads, 512 unless said.
        found["global_head_dim"] = config["head_dim"]
    if config["model_type"] == "gpt_neox":
        found = {"rotary_emb_base": entry["rope_theta"], "rotary_pct": entry["partial_rotary_factor"]}
    return {name: value for name, value in found.items() if name not in config}


def tiny_model(name: str) -> Any:
    """Attention sharp enough for positions to matter, heads of 32 as every program's kernels take them."""
    kind = name.partition("-")[0]
    wanted = {"hidden_size": 128, "head_dim": 32, "max_position_embeddings": WINDOW} | _CHANGES.get(name, {})
    if kind == "falcon":
        wanted.pop("head_dim")
    return uneven(tiny.tiny_model(kind, **wanted))


def uneven(model: Any) -> Any:
    """Norms, biases and sinks away from what they start with: otherwise two in each other's place would not show."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dim() == 1 and value.is_floating_point():
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model


def schedules(config: dict[str, Any]) -> Iterator[tuple[str, FrequencySchedule, str]]:
    """Every case; for models with one rotary entry a layer type also one with all of them stretched."""
    facts = read_facts(config)
    for label, (method, given) in CASES.items():
        try:
            made = schedule(method, facts.geometry, factor=1 if method == "none" else FACTOR, **given)
        except Exception as error:
            print(f"  {label}: {str(error)[:160]}", flush=True)
            continue
        if label.endswith("-formula"):
            made = replace(
                made, attention_factor=longrope_attention_factor(FACTOR, facts.geometry.original_length)
            )
        yield label, made, "full"
        if len(facts.ropes) > 1 and label in ("linear", "yarn"):
            yield f"{label}-all", made, "all"


def prompts() -> list[list[int]]:
    """One prompt a length, the longer ones beginning with the shorter."""
    longest = tiny.tokens(LENGTHS[-1], seed=7)[0].tolist()
    return [longest[:length] for length in LENGTHS]


class HalfGelu(torch.nn.Module):
    """What ggml's CPU kernel computes for every gelu: the tanh form, looked up for float16 and rounded to it."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """That, and the ends that it does not look up."""
        looked_up = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
        return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, looked_up))


def reference(folder: Path, config: dict[str, Any], gelu: type | None = None) -> list[list[float]]:
    """Stock transformers on that configuration, float32, one forward a prompt; with another gelu where one is given."""
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {key: value for key, value in config.items() if key != "architectures"}
    made = AutoConfig.for_model(**plain)
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=made, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    if gelu is not None:
        for module in model.modules():
            for name in [name for name in ("act_fn", "act", "activation_fn") if name in module._modules]:
                module._modules[name] = gelu()
    found = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        scores = torch.log_softmax(tiny.logits_of(model, ids)[0].float(), dim=-1)
        found.append(scores[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist())
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
