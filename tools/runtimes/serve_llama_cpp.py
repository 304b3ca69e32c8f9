"""llama.cpp's server over HTTP, for `fingerprints.py`: run in the environment that has xllamacpp.

PYTHON serve_llama_cpp.py MODEL.gguf CONTEXT PORT
"""

from __future__ import annotations

import os
import signal
import sys


def main(path: str, context: str, port: str) -> None:
    """Serve until it is told to stop; float32 cache and no flash attention, so that only the schedule shows."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = int(context)
    params.n_parallel = 1
    params.n_batch = params.n_ubatch = 512
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    params.verbosity = -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(
        os.environ.get("OMP_NUM_THREADS", "1")
    )
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    server = xllamacpp.Server(params)
    assert server is not None
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
