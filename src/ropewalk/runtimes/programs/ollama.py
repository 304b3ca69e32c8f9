"""Ollama: a Modelfile over a GGUF file; it takes no launch flags of llama.cpp's."""

from __future__ import annotations

from ropewalk.models.facts import ModelFacts
from ropewalk.runtimes.base import Fragment, Job, Way, runtime
from ropewalk.runtimes.programs.llama_cpp import GGUF_FORMS, LlamaCpp, metadata, tensors


@runtime
class Ollama(LlamaCpp):
    """The GGUF of llama.cpp, without flags; for some architectures its own engine computes, not llama.cpp."""

    name = "ollama"
    title = "Ollama"
    packages = ("ollama",)
    forms = GGUF_FORMS
    two_sets = "num_ctx decides for every prompt"
    flags = False

    def served(self, facts: ModelFacts) -> tuple[int | None, str]:
        """num_ctx, which is small unless it is set."""
        return None, "num_ctx decides, a few thousand tokens unless the Modelfile or the request sets it"

    def beside(self, job: Job, gguf: str) -> dict[str, str]:
        """The Modelfile: without num_ctx Ollama serves a window of its own choice and cuts prompts without a word."""
        return {"Modelfile": f"FROM ./{gguf}\nPARAMETER num_ctx {job.target_length}\n"}

    def fragment(self, job: Job, way: Way) -> Fragment:
        """The GGUF's content and the line that makes the model."""
        content = {"metadata": metadata(job, way), "tensors": tensors(job, way)}
        return Fragment(
            "the GGUF file, and a Modelfile over it", content, "ollama create NAME -f Modelfile", way.notes
        )
