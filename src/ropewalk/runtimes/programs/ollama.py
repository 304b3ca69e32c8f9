"""Ollama: a Modelfile over a GGUF file; it takes no launch flags of llama.cpp's."""

from __future__ import annotations

from ropewalk.runtimes.base import Fragment, Job, Way
from ropewalk.runtimes.programs.llama_cpp import GGUF_FORMS, LlamaCpp, metadata, tensors


class Ollama(LlamaCpp):
    """The GGUF of llama.cpp, without flags; for some architectures its own engine computes, not llama.cpp."""

    name = "ollama"
    title = "Ollama"
    packages = ("ollama",)
    forms = GGUF_FORMS
    two_sets = "num_ctx decides for every prompt"
    flags = False

    def fragment(self, job: Job, way: Way) -> Fragment:
        """The GGUF's content and the line that makes the model."""
        content = {"metadata": metadata(job, way), "tensors": tensors(job, way)}
        return Fragment(
            "the GGUF file, and a Modelfile over it", content, "ollama create NAME -f Modelfile", way.notes
        )


RUNTIME = Ollama()
