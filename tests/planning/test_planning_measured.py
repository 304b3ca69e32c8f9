"""The plan of a training step held against the peak that one really takes, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

TOKENS = 4096
# 17M parameters in the layers, vocabulary 32k: the logits are the largest part, as in small models at length.
STEP = """
import json, resource, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from ropewalk.planning import ModelShape, TrainingSetting, training_memory
from ropewalk.training.parts.loss.losses import chunked_cross_entropy

setting, tokens = json.loads(sys.argv[1]), int(sys.argv[2])
config = LlamaConfig(hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
                     num_key_value_heads=4, head_dim=64, vocab_size=32000, max_position_embeddings=tokens)
ids = torch.randint(0, 32000, (1, tokens))
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
model = LlamaForCausalLM(config).train()
if setting["checkpointing"]:
    model.gradient_checkpointing_enable({"use_reentrant": False})
optimiser = torch.optim.AdamW(model.parameters(), foreach=False)
for _ in range(2):
    if setting["chunked_loss"]:
        hidden = model.model(ids).last_hidden_state
        loss = chunked_cross_entropy(hidden[:, :-1], model.lm_head.weight, ids[:, 1:], chunk=1024)
    else:
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=False)
measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
count = sum(parameter.numel() for parameter in model.parameters())
shape = ModelShape(8, 512, 1408, 32000, 8, 4, 64, parameters=count)
planned = training_memory(shape, tokens, TrainingSetting(dtype="float32", master=None, **setting)).total
print(json.dumps({"measured": measured, "planned": planned}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chunked_loss", [False, True])
def test_planned_training_memory_is_within_a_fifth_of_the_peak(checkpointing, chunked_loss):
    setting = json.dumps({"checkpointing": checkpointing, "chunked_loss": chunked_loss})
    # Freed blocks must go back to the system, or the peak counts the allocator's hoard.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", STEP, setting, str(TOKENS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.8 <= found["planned"] / found["measured"] <= 1.2, found
