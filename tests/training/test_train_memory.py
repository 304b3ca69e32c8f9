"""Checkpointing and offloading change where activations live, never what is computed; nothing stays on disk."""

from __future__ import annotations

import os

import pytest
import torch
from tinymodels import small_model, some_tokens

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.training.parts.memory import activations as memory
from ropewalk.training.parts.memory.activations import (
    ActivationOffload,
    activation_memory,
    no_effect,
    prepare,
)
from ropewalk.training.parts.memory.options import MemoryOptions


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Options for a folder that counts as a disk, whatever this machine's temporary folder is."""
    monkeypatch.setattr(memory, "_refuse_memory", lambda root: None)

    def options(**fields):
        return MemoryOptions(
            **({"offload": "disk", "offload_folder": str(tmp_path), "offload_smallest": 0} | fields)
        )

    return options


def _gradients(options, watch=None):
    model = small_model().train()
    prepare(model, options)
    tokens = some_tokens()
    with activation_memory(model, options) as offload:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        if watch is not None:
            watch(offload)
        loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 20_000])
def test_gradients_are_bit_equal(disk, tmp_path, checkpointing, limit):
    loss, wanted = _gradients(MemoryOptions())
    other, got = _gradients(disk(checkpointing=checkpointing, offload_limit=limit))
    assert torch.equal(loss, other)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, wanted))
    assert list(tmp_path.iterdir()) == []


def test_recomputing_every_other_layer_keeps_more_and_computes_the_same(disk):
    kept = {}
    for every in (1, 2):
        options = disk(checkpointing=True, checkpoint_every=every)
        loss, grads = _gradients(
            options, lambda offload, every=every: kept.update({every: offload.stored_bytes})
        )
        wanted, wanted_grads = _gradients(MemoryOptions())
        assert torch.equal(loss, wanted)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(grads, wanted_grads))
    assert kept[1] < kept[2]


def test_disk_is_used_and_bounded(disk, tmp_path):
    seen = {}

    def watch(offload):
        files = [path for folder in tmp_path.iterdir() for path in folder.iterdir()]
        seen.update(
            count=len(files), size=sum(path.stat().st_size for path in files), known=offload.stored_bytes
        )

    _gradients(disk(), watch)
    assert seen["count"] > 10
    assert seen["size"] == seen["known"]
    free = seen["size"]
    _gradients(disk(offload_limit=free // 2), watch)
    assert 0 < seen["size"] <= free // 2


def test_files_vanish_as_backward_goes_and_after_an_error(disk, tmp_path):
    offload = ActivationOffload(disk())
    with offload:
        x = torch.randn(64, requires_grad=True)
        y = (x * x).exp().sum()
        assert offload.stored_bytes > 0
        y.backward()
        del y
        assert offload.stored_bytes == 0

    def fail():
        with activation_memory(torch.nn.Linear(1, 1), disk()):
            (torch.randn(64, requires_grad=True) ** 2).sum()
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_parameters_stay_where_they_are(disk):
    layer = torch.nn.Linear(32, 32)
    x = torch.randn(4, 32, requires_grad=True)
    with ActivationOffload(disk(), keep=layer.parameters()) as offload:
        y = layer(x)
        assert offload.stored_bytes == x.numel() * 4
        y.sum().backward()
    with ActivationOffload(disk()) as offload:
        y = layer(x)
        assert offload.stored_bytes == (x.numel() + layer.weight.numel()) * 4
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_every_type_and_layout_comes_back(disk, dtype):
    with ActivationOffload(disk()) as offload:
        tensor = torch.arange(24).view(4, 6).to(dtype).T
        packed = offload._pack(tensor)
        assert not isinstance(packed, torch.Tensor)
        assert torch.equal(offload._unpack(packed), tensor)


def test_a_dead_process_leaves_nothing_for_long(disk, tmp_path):
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    stale = tmp_path / f"ropewalk-activations-{process}-abc"
    stale.mkdir()
    (stale / "1.bin").write_bytes(b"x")
    mine = tmp_path / f"ropewalk-activations-{os.getpid()}-abc"
    mine.mkdir()
    with ActivationOffload(disk()):
        assert not stale.exists()
        assert mine.exists()


def test_a_truncated_activation_is_named(disk, tmp_path):
    with ActivationOffload(disk()) as offload:
        packed = offload._pack(torch.ones(100))
        path = next(tmp_path.glob("*/*.bin"))
        path.write_bytes(b"short")
        with pytest.raises(RopewalkError, match="5 of 400 bytes"):
            offload._unpack(packed)
        del packed


def test_memory_that_is_no_disk_is_refused(monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\ntmpfs {tmp_path}/ram tmpfs rw 0 0\n")
    monkeypatch.setattr(memory, "MOUNTS", mounts)
    memory._refuse_memory(tmp_path)
    with pytest.raises(UsageError, match="tmpfs"):
        memory._refuse_memory(tmp_path / "ram" / "inside")


def test_cpu_offload_of_cpu_tensors_does_nothing():
    with ActivationOffload(MemoryOptions(offload="cpu", offload_smallest=0)) as offload:
        (torch.randn(64, requires_grad=True) ** 2).sum().backward()
        assert offload.peak_bytes == 0


@pytest.mark.gpu
def test_cpu_offload_from_a_gpu():
    device = torch.device("cuda")
    x = torch.randn(1024, 64, device=device, requires_grad=True)
    wanted = torch.autograd.grad((x.sin() * x).sum(), x)[0]
    with ActivationOffload(MemoryOptions(offload="cpu", offload_smallest=0)) as offload:
        y = (x.sin() * x).sum()
        assert offload.stored_bytes > 0
        got = torch.autograd.grad(y, x)[0]
    assert torch.equal(got, wanted)


def test_settings_without_effect_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use disk" in str(no_effect(MemoryOptions(offload="cpu")))
    assert "without memory.checkpointing" in str(no_effect(MemoryOptions(checkpoint_every=2)))
    assert no_effect(MemoryOptions(checkpointing=True, checkpoint_every=2, offload="disk")) is None


def test_models_without_checkpointing_are_refused():
    with pytest.raises(UsageError, match="does not support activation checkpointing"):
        prepare(torch.nn.Linear(2, 2), MemoryOptions(checkpointing=True))
