"""Loading a model and its tokenizer: safetensors only, no code of the folder's own unless asked, no prompt."""

from __future__ import annotations

import codecs
import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.models.checkpoint.weights import find_weights

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("sdpa", "flash_attention_2", "flex_attention", "eager")

_INSPECT = "`ropewalk inspect` names what is wrong in its config"

log = logging.getLogger("ropewalk")


def load_model(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
    trust_remote_code: bool = False,
    empty: bool = False,
    quantisation: Mapping[str, Any] | None = None,
) -> Any:
    """The causal language model of `source` (folder, `hemp`, Hub id) in evaluation mode, on its device. A JSON file
    that is named takes config.json's place, with the weights of its folder.

    `device="auto"` is CUDA, then MPS, then CPU. `dtype="auto"` is the checkpoint's own type on an accelerator and
    float32 on a CPU. An architecture without `attn="sdpa"` runs eager and says so; any other wish that cannot be
    met is refused. An `empty` one has its buffers and none of its weights: they are on the meta device.
    `quantisation` is what transformers is told beside the file's quantization_config, or in its place where the weights
    are plain.
    """
    from ropewalk.models.source import locate

    place = locate(source, need_weights=True)
    folder = place.folder
    refuse_remote_code(place.config, trust_remote_code)
    find_weights(folder)
    wanted = pick_device(device)
    kind = pick_dtype(dtype, wanted)
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        config = _configuration(source, place.config, trust_remote_code)
        try:
            attn = _attention_for(config, attn)
            stored = getattr(config, "quantization_config", None) is not None
            if empty:
                return _empty(config, folder, dtype=kind, attn=attn)
            packed = _quantised(config, quantisation, wanted)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=kind,
                attn_implementation=attn,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                local_files_only=True,
                # Both so that the tensors are named: by itself it speaks of a table in its log.
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **packed,
            )
            model, report = loaded
            _check_weights(source, model, report, stored or bool(packed))
            if kind != "auto" and stored and getattr(model, "hf_quantizer", None) is None:
                # Widened while it was loaded, it comes out of transformers in two types.
                model = model.to(kind)
            if packed:
                # Saving would undo what loading did to the weights; without these it undoes the architecture's part.
                model._weight_conversions = None
            return (model if packed else model.to(wanted)).eval()
        except torch.OutOfMemoryError as error:
            raise RopewalkError(
                f"{source} does not fit on {wanted} ({one_line(error, 160)})",
                hint="pass --dtype bfloat16 or another --device",
            ) from error
        except (ValueError, OSError, ImportError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise RopewalkError(
                f"{source} does not load as a causal language model ({type(error).__name__}: {one_line(error, 200)})",
                hint=_INSPECT,
            ) from error


def _configuration(source: str | Path, path: Path, trust_remote_code: bool) -> Any:
    """The configuration as transformers reads it; what it objects to is said in one line."""
    from transformers import AutoConfig

    from ropewalk.models.source import CONFIG_NAME

    try:
        return AutoConfig.from_pretrained(
            path.parent if path.name == CONFIG_NAME else path,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
    except Exception as error:
        # Configuration classes validate as they like, with error types of their own.
        marked = path.read_bytes().startswith(codecs.BOM_UTF8)
        raise RopewalkError(
            f"{source} does not load as a causal language model ({type(error).__name__}: {one_line(error, 200)})",
            hint=f"save {path.name} without the byte order mark that it begins with" if marked else _INSPECT,
        ) from error


def _check_weights(source: str | Path, model: Any, report: Mapping[str, Any], packed: bool) -> None:
    """Refuse a model that was filled up with random numbers, and say which of the file's tensors it has no place for.

    A packed model's tensors go by names of its packing's own, so none of them counts as missing.
    """
    wrong = [
        (name, f"{tuple(file)} where config.json makes it {tuple(made)}")
        for name, file, made in report["mismatched_keys"]
    ]
    parameters = {name for name, _ in model.named_parameters()}
    missing = [] if packed else sorted(parameters.intersection(report["missing_keys"]))
    if wrong:
        name, shapes = min(wrong)
        raise RopewalkError(
            f"{source}: {len(wrong)} weights have another shape than its config.json says ({name}: {shapes})",
            hint="put the config.json beside the weights that belongs to them",
        )
    if missing:
        raise RopewalkError(
            f"{source}: {len(missing)} weights are missing (first {missing[0]}), which would be random numbers",
            hint="fetch the model again, or correct config.json where it asks for more layers than the weights have",
        )
    # Older checkpoints hold the rotary table, which is computed anew.
    unused = sorted(name for name in report["unexpected_keys"] if not name.endswith("inv_freq"))
    if unused:
        log.warning(
            "%s: %d tensors of its weights have no place in the model (first %s)",
            source,
            len(unused),
            unused[0],
        )


def _quantised(config: Any, told: Mapping[str, Any] | None, device: Any) -> dict[str, Any]:
    """What `from_pretrained` takes so that weights are packed where they are used; what is stored so is changed in
    `config`."""
    if told is None:
        return {}
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        config.quantization_config = (stored if isinstance(stored, dict) else stored.to_dict()) | dict(told)
        return {"device_map": {"": device}}
    return {"device_map": {"": device}, "quantization_config": dict(told)}


def _empty(config: Any, folder: Path, *, dtype: Any, attn: str) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    with no_init_weights(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=config.dtype if dtype == "auto" else dtype, attn_implementation=attn
        )
    # Made one after the other, tied weights were no longer one.
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer that travels with `source`; RopewalkError where there is none."""
    from ropewalk.models.source import resolve

    folder = resolve(source)
    folder = folder.parent if folder.is_file() else folder
    refuse_remote_code(folder, trust_remote_code)
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except Exception as error:
            # It reads config.json first: what is wrong there is no fault of the tokenizer.
            _configuration(source, folder / "config.json", trust_remote_code)
            # Tokenizer backends raise what they like, bare Exception included.
            raise RopewalkError(
                f"{source} has no tokenizer that loads ({type(error).__name__}: {one_line(error, 160)})",
                hint="fetch its tokenizer files again"
                if (folder / "tokenizer.json").is_file()
                else "put tokenizer.json and tokenizer_config.json beside config.json",
            ) from error
    limit = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise RopewalkError(
            f"{source}: model_max_length={one_line(limit, 40)!r} in tokenizer_config.json is not a number",
            hint="write a number of tokens there, or take the entry out",
        )
    return tokenizer


def refuse_remote_code(folder: Path, trust_remote_code: bool) -> None:
    """Refuse a folder whose config asks for code of its own (`auto_map`), at once and without a question."""
    from ropewalk.models.config import read_config

    config = read_config(folder)
    if trust_remote_code or not _auto_map(config):
        return
    raise RopewalkError(
        f"{folder} asks to run code of its own (auto_map names {one_line(_auto_map(config), 80)})",
        hint="read that code, then pass --trust-remote-code; or remove auto_map from config.json where the installed "
        f"transformers knows {one_line(config.get('model_type'), 40)!r} itself",
    )


def _auto_map(config: Mapping[str, Any]) -> str:
    entry = config.get("auto_map")
    if not entry:
        return ""
    return ", ".join(map(str, entry.values())) if isinstance(entry, Mapping) else str(entry)


def pick_device(device: str) -> Any:
    """A torch device for `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; one that is not there is refused."""
    import torch

    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"device={one_line(device, 40)!r} is not a device", hint="use auto, cpu, cuda, cuda:1"
        ) from error
    count = torch.cuda.device_count() if wanted.type == "cuda" else 1
    missing_mps = wanted.type == "mps" and not torch.backends.mps.is_available()
    if missing_mps or (wanted.type == "cuda" and (wanted.index or 0) >= count):
        raise RopewalkError(f"device={device!r} is not on this machine", hint="use --device cpu, or auto")
    return wanted


def pick_dtype(dtype: str, device: Any) -> Any:
    """A torch dtype, or "auto" for the checkpoint's own."""
    import torch

    if dtype not in DTYPES:
        raise UsageError(f"dtype={one_line(dtype, 40)!r} is not offered", hint=f"use {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)
    # Most CPUs are slower in half types, which round away what small differences are measured besides.
    return torch.float32 if device.type == "cpu" else "auto"


def _attention_for(config: Any, attn: str) -> str:
    """`attn` where the architecture offers it; eager, said aloud, where it lacks sdpa; otherwise a refusal."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if attn not in ATTENTION:
        raise UsageError(f"attn={one_line(attn, 40)!r} is not offered", hint=f"use {', '.join(ATTENTION)}")
    if attn == "flash_attention_2":
        from transformers.utils.import_utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise RopewalkError(
                "attn='flash_attention_2' needs the flash-attn package and a GPU", hint="use --attn sdpa"
            )
    try:
        # Code from outside the library has no entry here, and says itself what it lacks.
        family = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        return attn
    if attn == "sdpa" and not getattr(family, "_supports_sdpa", True):
        log.warning("%s has no sdpa attention: running eager", config.model_type)
        return "eager"
    if attn == "flex_attention" and not getattr(family, "_supports_flex_attn", False):
        raise RopewalkError(
            f"{config.model_type} has no flex_attention", hint="use --attn sdpa or --attn eager"
        )
    return attn


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, log lines or warnings of transformers inside the block; its settings come back after it."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
