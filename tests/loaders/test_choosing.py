"""What 'auto' takes on CUDA, by the workers that there are; memory that cannot be page-locked; other processes. No GPU
is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alexnet_fast import LoaderConfig, loaders
from alexnet_fast.loaders import decoder_on_cuda
from alexnet_fast.loaders.batch_buffers import BatchBuffers, Layout
from alexnet_fast.loaders.resident import free_memory


@pytest.mark.parametrize(
    ("workers", "compiled", "backend"),
    [(0, True, "dali"), (1, True, "dali"), (8, True, "dali"), (12, True, "dali"), (13, True, "torchvision"),
     (16, True, "torchvision"), (16, False, "dali"), (17, False, "torchvision"), (64, False, "torchvision")],
)  # fmt: skip
def test_the_larger_of_two_expected_rates_decides(workers: int, compiled: bool, backend: str) -> None:
    chosen, why = decoder_on_cuda(workers, compiled=compiled)
    assert chosen == backend
    assert f"with {workers} worker" in why and "bench-loader measures them" in why


def test_the_reason_names_both_rates() -> None:
    assert (
        "about 6,000 full-size images/s are expected of DALI and 4,000 of the host"
        in decoder_on_cuda(4, compiled=True)[1]
    )


class Cudart:
    """CUDA's own library, which refuses to page-lock and keeps the error until somebody asks for the last one."""

    def __init__(self, answer: int) -> None:
        self.answer, self.locked, self.last_error = answer, [], 0

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:
        self.last_error = self.answer
        self.locked.append((pointer, size))
        return self.answer

    def cudaHostUnregister(self, pointer: int) -> int:
        return 0


def test_a_refused_page_lock_leaves_no_error_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = Cudart(1)
    buffers = BatchBuffers(Layout(2, 4, 8, "uint8"), shared=False)
    real = torch.ones

    def ones(*size: int, device: Any) -> torch.Tensor:
        """A kernel: as after any launch, torch asks for the last error and raises it."""
        error, cudart.last_error = cudart.last_error, 0
        if error:
            raise RuntimeError("CUDA error: invalid argument")
        return real(*size)

    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch, "ones", ones)
    assert buffers.page_lock(torch.device("cpu")) is False
    assert cudart.last_error == 0
    assert cudart.locked == [(buffers.memory.ctypes.data, buffers.spare * buffers.layout.batch_bytes)]
    ones(1, device="cpu")  # raises nothing
    cudart.answer = 0
    assert buffers.page_lock(torch.device("cpu")) is True


def test_free_memory_counts_what_torch_holds_and_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 60 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * gib)
    assert free_memory(SimpleNamespace(type="cuda")) == 65 * gib  # type: ignore[arg-type]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process that nothing has been said to, of others or to its user."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    loaders._say_who_else_reads.cache_clear()
    yield monkeypatch
    loaders._say_who_else_reads.cache_clear()


def opened(*first: Any, **more: Any) -> int:
    with loaders.open_loader(*first, batch_size=4, backend="synthetic", device="cpu", **more) as loader:
        return loader.config.world_size


@pytest.mark.parametrize(
    ("announced", "says"),
    [
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": "many"}, False),
        ({"WORLD_SIZE": "2"}, False),
        ({}, False),
    ],
)
def test_a_process_among_others_is_told_once_that_it_reads_every_record(
    announced: dict[str, str], says: bool, alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in announced.items():
        alone.setenv(name, value)
    assert [opened(world_size=1), opened(rank=0), opened(LoaderConfig(backend="synthetic"))] == [1, 1, 1]
    assert capsys.readouterr().err == ""
    assert [opened(), opened(), opened(split="val")] == [1, 1, 1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == says
    assert all(
        "these 2 processes reads every record, since rank and world_size are not given" in line for line in lines
    )


def test_a_process_group_counts_whatever_the_environment_says(
    tmp_path: Path, alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        alone.setenv("RANK", "0")
        alone.setenv("WORLD_SIZE", "2")
        assert opened() == 1
    finally:
        torch.distributed.destroy_process_group()
    assert capsys.readouterr().err == ""
