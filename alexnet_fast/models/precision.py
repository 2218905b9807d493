"""Which number format the network computes in, by what the device is good at."""

from __future__ import annotations

import copy
import time
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..system import cpu_flags
from .alexnet import AlexNet

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Instructions that multiply bfloat16: without them PyTorch emulates, at less than the speed of float32.
_CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "svebf16", "bf16")


@dataclass(frozen=True)
class Precision:
    """The number format of a run. Weights and the optimiser's state are float32 in each of them.

    Attributes:
        name: 'bf16', 'fp16' or 'fp32'.
        device_type: 'cuda', 'mps' or 'cpu'.
        reason: why, in a few words, for the log.
    """

    name: str
    device_type: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and of the images that go in."""
        return _DTYPES[self.name]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.name != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where fp16's small gradients would vanish; passes everything through otherwise."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16" and self.device_type == "cuda")


def copy_for_computing(model: AlexNet, precision: Precision) -> AlexNet:
    """The network with its convolutions and fully connected layers in the number format of `precision`.

    Autocast rounds 60 M weights anew in every step, and every batch of an evaluation; a copy is rounded once. The
    normalisation layers, whose running statistics need float32, are shared with `model`. In fp32 the copy is `model`.
    """
    if precision.name == "fp32":
        return model
    shared = {id(m): m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    twin = copy.deepcopy(model, dict(shared))
    for module in twin.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(precision.dtype)
    return twin


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision for 'auto', 'bf16', 'fp16' or 'fp32' on `device`.

    Raises:
        UsageError: the device cannot compute in it.
    """
    if device.type == "cuda":
        native_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        if name == "bf16" and not native_bf16:
            raise UsageError("this GPU has no bf16 arithmetic: use precision fp16 or auto")
        _allow_tf32()
        torch.backends.cudnn.benchmark = True  # the same few shapes at every step: let cuDNN try its algorithms once
        if name == "auto":
            name = "bf16" if native_bf16 else "fp16"
        return Precision(name, "cuda", f"{torch.cuda.get_device_name(device)}, float32 weights")
    if device.type == "mps":
        if name in ("bf16", "fp16"):
            raise UsageError(f"training on mps runs in fp32 here: use precision fp32 or auto, not {name}")
        return Precision("fp32", "mps", "Apple GPU")
    if name == "fp16":
        raise UsageError("CPUs do not train in fp16: use precision bf16, fp32 or auto")
    flags = cpu_bf16_instructions()
    if name == "auto":
        name = "bf16" if flags else "fp32"
        why = f"this CPU has {', '.join(flags)}" if flags else "this CPU has no bf16 instructions"
        return Precision(name, "cpu", why)
    return Precision(name, "cpu", "as asked")


def _allow_tf32() -> None:
    """Let float32 matrix products and convolutions run on the matrix units.

    By the old names of these settings, which PyTorch 2.9 and 2.10 warn of. By the new one alone, reading the old one
    raises (pytorch/pytorch, pull request 194680), as torch.compile's trials of kernels do in 2.11; set by the old ones,
    both can be read (2.11, 2.14).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def cpu_bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instruction sets of this CPU that multiply bfloat16, as the kernel names them; [] where it has none.

    PyTorch's own check also says yes to CPUs that only emulate it.
    """
    flags = set(cpu_flags(cpuinfo))
    return [flag for flag in _CPU_BF16_FLAGS if flag in flags]


def measured_gain(precision: Precision) -> float | None:
    """How many times as fast as float32 a matrix product runs in bf16 on this CPU now; None off the CPU or in fp32.

    Takes about 0.1 s. For the log only: the choice itself must not hang on a clock, or a resumed run could differ.
    """
    if precision.device_type != "cpu" or precision.name != "bf16":
        return None
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(768, 768, dtype=dtype)
        torch.mm(a, a)
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            torch.mm(a, a)
            times.append(time.perf_counter() - begin)
        seconds[dtype] = min(times)
    return seconds[torch.float32] / seconds[torch.bfloat16]
