"""Where a model is: a folder, a config.json, the bundled `hemp`, or a Hub id in the cache or to be downloaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.structure.values import shown

CONFIG_NAME = "config.json"
HEMP = "hemp"
# Tokenizers without a limit write a number like 1e30 as model_max_length, which is no length and must stay.
NO_LIMIT = 10**12
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")
_BESIDE = "give the folder that holds it, with its config.json"
_PACKED = "unpack it and give the folder"
# Files that a hurried hand gives in place of the folder.
_NO_MODEL = dict.fromkeys((".safetensors", ".bin", ".pt", ".pth", ".ckpt"), _BESIDE)
_NO_MODEL |= dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".zst", ".7z"), _PACKED)
# What a reader of configurations wants; weights come only on request.
_SMALL_FILES = ["config.json", "generation_config.json", "tokenizer_config.json"]


@dataclass(frozen=True)
class Place:
    """A model on this machine: its folder, and the JSON file in it that describes the model.

    The file is config.json unless another one was named; then that one counts, with the folder's weights.
    """

    folder: Path
    config: Path
    was_named: bool

    @property
    def is_lone_file(self) -> bool:
        """A configuration that was named itself and has no weights beside it."""
        return self.was_named and not any(self.folder.glob("*.safetensors"))

    @property
    def untouchable(self) -> Path:
        """What no output may touch: the folder, or of a lone file (a GGUF, a configuration) the file alone."""
        return self.config if self.is_lone_file else self.folder


def locate(source: str | Path, *, need_weights: bool = False) -> Place:
    """Folder and configuration file of a model, see `resolve`."""
    if need_weights:
        resolve(source, need_weights=True)
    found = resolve(source)
    config = config_path(found)
    return Place(config.parent, config, was_named=not found.is_dir())


def resolve(source: str | Path, *, need_weights: bool = False) -> Path:
    """The path on this machine of a model: its folder, or the JSON file that was named.

    An existing path wins over a Hub id of the same spelling. A Hub id (`owner/name`, or `owner/name@revision`) is
    looked up in the local cache, then downloaded: only its small files, or with `need_weights` its safetensors and
    tokenizer too. `need_weights` also turns the path of a config.json into its folder and demands weights there.
    """
    if not isinstance(source, str | os.PathLike):
        # From Python anything may come, and a loaded model prints itself on many lines.
        given = f"of type {type(source).__name__}" if hasattr(source, "forward") else shown(source)
        raise UsageError(
            f"model {given} is not a path", hint="give a folder, a config.json, hemp or a Hub id"
        )
    text = str(os.fspath(source))
    if not text or "\0" in text:
        raise UsageError(
            f"model {shown(text)} is not a path", hint="give a folder, a config.json, hemp or a Hub id"
        )
    path = Path(text).expanduser()
    try:
        found = path.exists()
    except OSError as error:
        raise UsageError(
            f"model {shown(text)} is not a usable path ({error.strerror})",
            hint="give a shorter path, or a Hub id",
        ) from error
    if not found and text == HEMP:
        from ropewalk.hemp import folder

        path = folder()
    elif not found:
        path = _from_hub(text, need_weights)
    if path.suffix.lower() in _NO_MODEL and path.is_file():
        raise RopewalkError(
            f"{shown(text, 200)} is a {path.suffix} file, not a model", hint=_NO_MODEL[path.suffix.lower()]
        )
    if not need_weights:
        return path
    return _with_weights(path if path.is_dir() else path.parent)


def is_gguf(path: Path) -> bool:
    """Whether a resolved path is a GGUF file: weights and configuration in one, which llama.cpp and its kin read."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def config_path(path: Path) -> Path:
    """The JSON file of a resolved path; a folder without config.json says what it holds instead."""
    if not path.is_dir():
        return path
    inside = path / CONFIG_NAME
    if inside.is_file():
        return inside
    where = shown(str(path), 200)
    hint = "give the folder of a Hugging Face checkpoint"
    if any(path.glob("*.gguf")):
        hint = "a GGUF file carries its own configuration: give the file itself, or the folder that it was made from"
    elif (path / "adapter_config.json").is_file():
        hint = "this is an adapter: give the base model that its adapter_config.json names"
    elif (path / "params.json").is_file():
        hint = (
            "its params.json is another layout: give the Hugging Face one of the model, or convert it first"
        )
    else:
        inner = sorted(child.parent.name for child in path.glob(f"*/{CONFIG_NAME}"))
        if inner:
            hint = f"one of its folders has one: {', '.join(shown(name, 40) for name in inner[:3])}"
    raise RopewalkError(f"{where} holds no {CONFIG_NAME}", hint=hint)


def _with_weights(folder: Path) -> Path:
    if any(folder.glob("*.safetensors")):
        return folder
    where = shown(str(folder), 200)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise RopewalkError(
            f"{where} holds its weights as pickles, which run code when they are read",
            hint="convert them to safetensors first (transformers' save_pretrained writes them)",
        )
    raise RopewalkError(
        f"{where} holds no weights (*.safetensors)", hint="give a folder with the model's weights"
    )


def _from_hub(text: str, need_weights: bool) -> Path:
    if not _HUB_ID.match(text):
        hint = "give an existing folder or config.json, hemp, or a Hub id written owner/name"
        raise RopewalkError(f"no model at {shown(text, 200)}", hint=hint)
    name, _, revision = text.partition("@")
    cached = _in_cache(name, revision or "main")
    if cached is not None and (not need_weights or any(cached.glob("*.safetensors"))):
        return cached
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on"):
        raise RopewalkError(
            f"no model at {shown(text, 200)}, and as a Hub id it is not in the cache while HF_HUB_OFFLINE is set",
            hint="give a folder on this machine, or unset HF_HUB_OFFLINE to download",
        )
    return _download(name, revision or None, need_weights)


def _in_cache(name: str, revision: str) -> Path | None:
    """The snapshot of a Hub id in the local cache, read without importing the Hub's client."""
    folder = _cache_folder() / f"models--{name.replace('/', '--')}"
    reference = folder / "refs" / revision
    try:
        commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    except (OSError, UnicodeDecodeError):
        return None
    # Foreign text that becomes a path: no slash gets in.
    if not re.fullmatch(r"[\w.-]+", commit):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if (snapshot / CONFIG_NAME).is_file() else None


def _cache_folder() -> Path:
    # In the order of precedence of the Hub's own client.
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _download(name: str, revision: str | None, need_weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    wanted = [*_SMALL_FILES, "*.safetensors", "*.safetensors.index.json", "*token*", "*.model", "*.jinja"]
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=wanted if need_weights else _SMALL_FILES, etag_timeout=10
        )
    except Exception as error:
        # The client raises a dozen kinds of errors (network, missing, gated, disk full); none may be a traceback.
        reason = type(error).__name__
        raise RopewalkError(
            f"no folder {shown(name, 200)} here, and it cannot be fetched from the Hub ({reason})",
            hint="check the spelling and the network (a gated model needs `hf auth login`), or give a folder",
        ) from error
    return Path(found)
