"""`alexnet-fast doctor`: what this machine and this installation are, to paste into a bug report.

Nothing here may fail: a check that cannot be made says so in its own line.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from .system import (
    Child,
    cgroup_cpu_quota,
    cpu_flags,
    cpu_name,
    follow_usable_cores,
    memory_bytes,
    memory_info,
    memory_limit,
    usable_cores,
)
from .version import __version__

_PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "lmdb", "simplejpeg", "nvidia-dali-cuda120", "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13", "matplotlib", "typer", "rich", "opencv-python-headless",
    "opencv-python", "pyarrow", "fsspec", "ray", "tensorboard", "onnx", "onnxscript", "onnxruntime", "safetensors",
    "ipywidgets",
)  # fmt: skip
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "LD_PRELOAD", "WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_JOB_ID", "TORCH_COMPILE_DISABLE",
    "ALEXNET_FAST_NATIVE",
)  # fmt: skip
# PyTorch's DataLoader hands batches over in shared memory, and fails with a bus error where there is little of it.
_LITTLE_SHARED_MEMORY = 1 << 30
_LITTLE_ADDRESS_SPACE = 16 << 30
_FEW_PROCESSES = 256
Facts = list[tuple[str, str]]

_VECTOR_UNITS = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve"}


def doctor() -> str:
    """The report, in lines of 'what: value' under headings; problems that are known to bite come last."""
    sections: list[tuple[str, Callable[[], Facts]]] = [
        ("alexnet-fast", _this_program),
        ("Processor and memory", _machine),
        ("Device", _device),
        ("Decoders (each has decoded an image)", _decoders),
        ("Packages", _packages),
        ("Environment", _environment),
    ]
    lines = []
    for heading, facts in sections:
        lines.append(heading)
        try:
            found = facts()
        except Exception as error:
            found = [("not known", f"{type(error).__name__}: {error}")]
        width = max((len(name) for name, _ in found), default=0)
        lines += [f"  {name.ljust(width)}  {value}" for name, value in found]
    problems = _problems()
    lines.append("Problems")
    lines += [f"  - {problem}" for problem in problems] or ["  none found"]
    return "\n".join(lines)


def _this_program() -> Facts:
    return [
        ("version", __version__),
        ("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("system", platform.platform()),
    ]


def _machine() -> Facts:
    quota = cgroup_cpu_quota()
    limit = "" if quota is None else f", cgroup allows {quota:g}"
    memory = memory_info()
    facts = [
        ("processor", cpu_name()),
        ("usable cores", f"{usable_cores()} (machine has {os.cpu_count()}{limit})"),
        ("vector units", " ".join(flag for flag in cpu_flags() if flag in _VECTOR_UNITS) or "not known"),
    ]
    total, available = memory_bytes()
    if memory and total is not None and available is not None:
        limited = f" (the machine has {_gib(memory['MemTotal'])})" if total < memory["MemTotal"] else ""
        facts += [
            ("memory", f"{_gib(total)} in all{limited}, {_gib(available)} to be had"),
            ("page cache", f"{_gib(memory['Cached'])} of files held, {_gib(memory['Dirty'])} waiting to be written"),
        ]
    shared = _shared_memory()
    if shared is not None:
        facts.append(("shared memory", f"/dev/shm {_gib(shared[0])} in all, {_gib(shared[1])} free"))
    try:
        here = f"{_gib(shutil.disk_usage('.').free)} free ({_file_system(Path.cwd())})"
    except OSError as error:
        here = f"not known, the working folder is not there ({error.strerror})"
    facts.append(("disk here", here))
    facts.append(("open files", _open_files()))
    return facts


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _shared_memory() -> tuple[int, int] | None:
    if not Path("/dev/shm").is_dir():
        return None
    usage = shutil.disk_usage("/dev/shm")
    return usage.total, usage.free


def _file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`, from the longest mount point above it."""
    best, kind = "", "file system not known"
    for line in _lines("/proc/self/mounts"):
        words = line.split()
        if len(words) > 2 and len(words[1]) > len(best) and folder.is_relative_to(words[1]):
            best, kind = words[1], words[2]
    return kind


def _open_files() -> str:
    try:
        import resource
    except ImportError:
        return "not limited in a way that this system tells"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{soft} allowed, {hard} at most"


def _device() -> Facts:
    import torch

    facts = [("chosen by auto", _auto_device())]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(number)
            facts.append(
                (f"cuda:{number}", f"{p.name}, {_gib(p.total_memory)}, compute capability {p.major}.{p.minor}")
            )
    follow_usable_cores()
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    facts += [
        ("CUDA in torch", f"{torch.version.cuda or 'none'}, cuDNN {cudnn or 'none'}"),
        ("NVIDIA driver", _driver()),
        ("torch threads", f"{torch.get_num_threads()} within an operation"),
    ]
    return facts


def _auto_device() -> str:
    from .system import choose_device

    return str(choose_device("auto"))


def _driver() -> str:
    lines = _lines("/proc/driver/nvidia/version")
    return lines[0].partition(":")[2].strip() if lines else "none"


def _decoders() -> Facts:
    from PIL import Image

    held = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(held, "JPEG")
    jpeg = held.getvalue()
    return [
        ("compiled code", _tried(_try_native)),
        ("simplejpeg", _tried(lambda: _try_simplejpeg(jpeg))),
        ("torchvision", _tried(lambda: _try_torchvision(jpeg))),
        ("Pillow", _tried(lambda: _try_pillow(jpeg))),
        ("DALI on the CPU", _tried(lambda: _try_dali(jpeg))),
    ]


def _tried(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except Exception as error:
        text = str(error).strip().splitlines()
        return f"no: {type(error).__name__}: {text[-1] if text else ''}"


def _try_native() -> str:
    from .images import describe_compiled_code

    return describe_compiled_code()


def _try_simplejpeg(jpeg: bytes) -> str:
    import simplejpeg

    assert simplejpeg.decode_jpeg(jpeg).shape == (48, 64, 3)
    return "yes"


def _try_torchvision(jpeg: bytes) -> str:
    import numpy as np
    import torch
    from torchvision.io import decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 hands decoding over to TorchCodec
        assert decode_jpeg(torch.from_numpy(np.frombuffer(jpeg, dtype=np.uint8).copy())).shape == (3, 48, 64)
    return "yes"


def _try_pillow(jpeg: bytes) -> str:
    from PIL import Image, features

    with Image.open(io.BytesIO(jpeg)) as image:
        image.load()
        assert image.size == (64, 48)
    library = "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "libjpeg"
    return f"yes, {library} {features.version('jpg')}"


def _try_dali(jpeg: bytes) -> str:
    if sys.platform != "linux":
        return "no: DALI runs on Linux only"
    # In a process of its own: a library that does not suit the driver can end the process it is loaded into.
    with Child(__name__, keep_stderr=True) as child:
        shape = child.call(decode_with_dali, jpeg, timeout=120)
    assert shape == (48, 64, 3)
    return "yes"


def decode_with_dali(jpeg: bytes) -> tuple[int, ...]:
    """The shape of an image that DALI decodes on the CPU."""
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def decode() -> object:
        data = fn.external_source(lambda: [np.frombuffer(jpeg, np.uint8)], batch=True)
        return fn.decoders.image(data, device="cpu")

    pipeline = decode()
    pipeline.build()
    (images,) = pipeline.run()
    return tuple(images.at(0).shape)


def _packages() -> Facts:
    facts = []
    for name in _PACKAGES:
        try:
            facts.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def _environment() -> Facts:
    return [(name, os.environ[name]) for name in _VARIABLES if name in os.environ] or [
        ("none of", "the variables that change how torch runs is set")
    ]


def _limits() -> list[str]:
    """Limits of this process that training runs into."""
    try:
        import resource
    except ImportError:
        return []
    found = []
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < _LITTLE_ADDRESS_SPACE:
        found.append(f"address space is limited to {_gib(space)}, and torch wants more: raise it (ulimit -v)")
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if processes != resource.RLIM_INFINITY and processes < _FEW_PROCESSES:
        found.append(f"this user may have {processes} processes and threads in all: raise it (ulimit -u)")
    return found


def _problems() -> list[str]:
    problems = []
    shared = _shared_memory()
    if shared is not None and shared[0] < _LITTLE_SHARED_MEMORY:
        problems.append(
            f"/dev/shm holds only {_gib(shared[0])}: DataLoader workers of other programs may end with a bus error; "
            "in Docker use --shm-size 8g"
        )
    if usable_cores() < (os.cpu_count() or 1):
        problems.append(
            f"this process may use {usable_cores()} of {os.cpu_count()} cores (affinity or a container's limit)"
        )
    limit = memory_limit()
    if limit is not None and limit < memory_info().get("MemTotal", 0):
        problems.append(
            f"this process may use {_gib(limit)} of memory (its cgroup's limit), files that are cached in it"
        )
    problems += _limits()
    try:
        import torch
        import torchvision  # noqa: F401 - importing is the check
    except Exception as error:
        return [*problems, f"torch and torchvision do not work together: {error}"]
    if torch.version.cuda and not torch.cuda.is_available() and _driver() != "none":
        problems.append(f"torch was built for CUDA {torch.version.cuda} but cannot use the driver {_driver()}")
    return problems
