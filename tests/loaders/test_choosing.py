"""What 'auto' takes on CUDA, by the workers that there are; and memory that cannot be page-locked. No GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

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
