"""Several processes of one evaluation: that they meet, and that the group ends before its processes do."""

from __future__ import annotations

import sys

from launched import in_two

LAST = """
import atexit

import torch

# What is registered first runs last: after whatever the package does at the end.
atexit.register(lambda: print("group left:", torch.distributed.is_initialized()))
from ropewalk.evaluation.work.processes import Processes

processes = Processes.join("cpu")
assert torch.distributed.is_initialized()
print(processes.gather(processes.rank), processes.main)
"""


def test_processes_meet_and_the_group_ends_before_they_do() -> None:
    first, second = in_two([sys.executable, "-c", LAST])
    assert first == "[0, 1] True\ngroup left: False\n"
    assert second == "[0, 1] False\ngroup left: False\n"
