"""Cores and memory that a process may use, read from made-up cgroup trees, and the choice of a device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alexnet_fast import UsageError
from alexnet_fast.system import (
    available_memory,
    cgroup_cpu_quota,
    choose_device,
    memory_format,
    memory_limit,
    to_device,
    usable_cores,
    worker_count,
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cgroup_v2_quota_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/a/b\n")
    write(tmp_path / "cpu.max", "max 100000\n")
    write(tmp_path / "a/cpu.max", "150000 100000\n")
    write(tmp_path / "a/b/cpu.max", "400000 100000\n")
    assert cgroup_cpu_quota(tmp_path, tmp_path / "self") == 1.5


def test_cgroup_v1_quota(tmp_path: Path) -> None:
    write(tmp_path / "self", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "cpu/job/cpu.cfs_quota_us", "250000\n")
    write(tmp_path / "cpu/job/cpu.cfs_period_us", "100000\n")
    assert cgroup_cpu_quota(tmp_path, tmp_path / "self") == 2.5


def test_no_cgroup_means_no_quota(tmp_path: Path) -> None:
    assert cgroup_cpu_quota(tmp_path, tmp_path / "missing") is None
    write(tmp_path / "cpu.max", "nonsense\n")
    assert cgroup_cpu_quota(tmp_path, tmp_path / "missing") is None


def test_memory_limits_of_both_cgroup_versions(tmp_path: Path) -> None:
    write(tmp_path / "v2/self", "0::/a\n")
    write(tmp_path / "v2/a/memory.max", str(64 << 20))
    write(tmp_path / "v2/a/memory.current", str(50 << 20))
    write(tmp_path / "v2/a/memory.stat", f"anon 1\ninactive_file {10 << 20}\nactive_file {4 << 20}\n")
    assert available_memory(tmp_path / "v2", tmp_path / "v2/self") == 28 << 20
    assert memory_limit(tmp_path / "v2", tmp_path / "v2/self") == 64 << 20
    write(tmp_path / "v1/self", "4:memory:/job\n")
    write(tmp_path / "v1/memory/job/memory.limit_in_bytes", str(64 << 20))
    write(tmp_path / "v1/memory/job/memory.usage_in_bytes", str(60 << 20))
    write(tmp_path / "v1/memory/job/memory.stat", f"total_inactive_file {1 << 20}\n")
    assert available_memory(tmp_path / "v1", tmp_path / "v1/self") == 5 << 20
    write(tmp_path / "v1/memory/memory.limit_in_bytes", str(2**63 - 4096))  # no limit
    assert memory_limit(tmp_path / "v1", tmp_path / "v1/self") == 64 << 20
    assert memory_limit(tmp_path / "none", tmp_path / "none/self") is None
    free = available_memory(tmp_path / "none", tmp_path / "none/self")
    assert free is None or free > 64 << 20


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from alexnet_fast.system import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.fixture
def one_core_quota() -> Iterator[list[str]]:
    """A command's beginning that runs it with a quota of one core, as docker --cpus 1 does."""
    for top, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "100000 100000"}),
    ):
        group = top / f"alexnet-fast-{os.getpid()}"
        try:
            group.mkdir()
            try:
                for name, text in files.items():
                    (group / name).write_text(text)
                yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
            finally:
                group.rmdir()
            return
        except OSError:
            continue
    pytest.skip("needs root, and cgroups that can be made")


@pytest.mark.parametrize(("asked", "threads"), [(None, "1"), ("2", "2")])
def test_torch_follows_a_quota_but_not_against_the_users_word(
    one_core_quota: list[str], asked: str | None, threads: str
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    code = "from alexnet_fast.system import follow_usable_cores as f, usable_cores\nimport torch\n"
    code += "f(); print(usable_cores(), torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if asked is not None:
        environment["OMP_NUM_THREADS"] = asked
    done = subprocess.run(
        [*one_core_quota, sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["1", threads]


def test_device_is_chosen_or_refused_with_a_remedy() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="device auto or cpu"):
            choose_device("cuda:1")
    if not torch.backends.mps.is_available():
        with pytest.raises(UsageError, match="mps"):
            choose_device("mps")


def test_workers_are_a_process_s_share_of_the_cores_and_not_more_than_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr("alexnet_fast.system.device.cgroup_cpu_quota", lambda: None)
    for processes, expected in ((None, 16), ("1", 16), ("8", 8), ("3", 16), ("100", 1), ("no number", 16), ("0", 16)):
        if processes is None:
            monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        else:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert worker_count() == expected, processes


def test_networks_and_batches_are_contiguous_on_apple_gpus_alone() -> None:
    assert memory_format(torch.device("mps")) is torch.contiguous_format
    assert memory_format(torch.device("cuda", 1)) is memory_format(torch.device("cpu")) is torch.channels_last


def test_values_come_to_a_device_as_they_are() -> None:
    values = torch.arange(5)
    assert torch.equal(to_device(values, torch.device("cpu")), values)
