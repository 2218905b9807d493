"""How benchmarks/gpu.py measures: each kind of cell one function, called in a process of its own.

A cell's settings are a dict of plain values: dataset (a packed one), device, backend, batch_size, image_size,
num_workers, options of the backend, model, precision, seconds of a turn, and turns. Rates are medians of the turns
after a warm-up turn, with the lowest and the highest.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Seconds of other work that are queued on the GPU before its batches are looked at. While it runs, the resizes of the
# batches under way come late, and a decoder that does not wait for them writes over what they have still to read.
HOLD_BACK = 0.2
CLASSES = 1000
_WORST_LEVELS = 12  # mean difference of one image to the CPU's; chroma is upsampled in another way on a GPU


def facts() -> dict[str, Any]:
    """The machine, the versions, whether there is a GPU, and why DALI cannot run if it cannot."""
    import torch

    from alexnet_fast.images import compiled_code
    from alexnet_fast.loaders.dali.loader import why_not
    from alexnet_fast.system import choose_device, hardware, versions

    packages = (
        "torch", "torchvision", "numpy", "lmdb", "simplejpeg", "nvidia-dali-cuda120", "nvidia-dali-cuda130",
        "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13",
    )  # fmt: skip
    device = choose_device("auto" if torch.cuda.is_available() else "cpu")
    driver = Path("/sys/module/nvidia/version")
    return {
        "device": str(device),
        "gpu": None,
        **hardware(device),
        "driver": driver.read_text().strip() if driver.exists() else None,
        "versions": versions(*packages),
        "dali": why_not(str(device)),
        "compiled_code": compiled_code() is not None,
        "torch_cuda": torch.version.cuda,
    }


# ---------------------------------------------------------------------------------------------------------------------
# What measurements share


def open_backend(cell: dict[str, Any], *, dtype: Any = None) -> Any:
    """The training loader of a cell; its images are of the type that training takes there where none is given."""
    import torch

    from alexnet_fast import LoaderConfig, open_loader
    from alexnet_fast.models import choose_precision

    return open_loader(
        LoaderConfig(
            dataset=cell.get("dataset"),
            split="train",
            backend=cell.get("backend", "dali"),
            batch_size=cell["batch_size"],
            image_size=cell["image_size"],
            num_workers=cell.get("num_workers", "auto"),
            device=cell["device"],
            dtype=dtype or choose_precision("auto", torch.device(cell["device"])).dtype,
            options=cell.get("options", {}),
        )
    )


def endless(loader: Any) -> Iterator[Any]:
    if not len(loader):
        raise SystemExit(f"{loader.num_records} records make no batch of {loader.config.batch_size}")
    while True:
        yield from loader


def turn(cell: dict[str, Any], work: Callable[[], int]) -> float:
    """Images/s of `work` (one step, returning its images) over a turn."""
    from alexnet_fast.system import synchronize

    synchronize(cell["device"])
    begin, images = time.perf_counter(), 0
    while time.perf_counter() - begin < cell["seconds"]:
        images += work()
    synchronize(cell["device"])
    return images / (time.perf_counter() - begin)


def rates(found: list[float]) -> dict[str, float]:
    return {"images_per_s": statistics.median(found), "lowest": min(found), "highest": max(found)}


def turns(cell: dict[str, Any], work: Callable[[], int]) -> dict[str, float]:
    """A warm-up turn, then the median of the others."""
    return rates([turn(cell, work) for _ in range(cell["turns"] + 1)][1:])


def memory() -> dict[str, Any]:
    import resource

    import torch

    found: dict[str, Any] = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found["gpu_used_mib"] = (total - free) >> 20
    return found


def make_step(cell: dict[str, Any], **settings: Any) -> Any:
    """The step that `train` takes with recipe 'fast', for `CLASSES` classes whatever the data set has."""
    import torch

    from alexnet_fast.training.step import Step

    return Step.alone(
        cell.get("model", "alexnet"),
        num_classes=CLASSES,
        image_size=cell["image_size"],
        batch_size=cell["batch_size"],
        device=torch.device(cell["device"]),
        precision=cell.get("precision", "auto"),
        overrides={"width": cell["width"]},
        **settings,
    )


def noise(cell: dict[str, Any], dtype: Any) -> tuple[Any, Any]:
    """One batch that lies on the device."""
    options = {"num_records": cell["batch_size"], "num_classes": CLASSES}
    with open_backend({**cell, "dataset": None, "backend": "synthetic", "options": options}, dtype=dtype) as loader:
        images, labels = next(iter(loader))
    return images, labels


# ---------------------------------------------------------------------------------------------------------------------
# Setup


def measure_setup(cell: dict[str, Any]) -> dict[str, Any]:
    return {"imports": check_imports, "tests": run_tests}[cell["name"]](cell)


def check_imports(cell: dict[str, Any]) -> dict[str, Any]:
    """Everything is imported, every data set opened, and what `alexnet-fast doctor` says compared with it."""
    import torch
    import torchvision

    import alexnet_fast
    from alexnet_fast import ShardReader
    from alexnet_fast.dataset import read_dataset_info

    known = facts()
    data = {}
    for name, place in cell["datasets"].items():
        info = read_dataset_info(place)
        counts = {split: len(ShardReader(place, split)) for split in info.splits}
        data[name] = {"records": counts, "bytes": sum(split.bytes for split in info.splits.values())}
    done = _command("doctor")
    wanted = [str(torch.__version__).partition("+")[0], str(torchvision.__version__).partition("+")[0]]
    wanted += [known["gpu"]] if known["gpu"] else []
    silent = [word for word in wanted if word not in done.stdout]
    if ("DALI on the CPU  no" in done.stdout) == (known["dali"] is None):
        silent.append("DALI")
    return {
        "facts": known,
        "package": str(Path(alexnet_fast.__file__).parent),
        "datasets": data,
        "doctor_agrees": not silent and done.returncode == 0,
        "doctor_differs_in": silent,
        "doctor": done.stdout.splitlines(),
    }


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line, as typed."""
    program = "from alexnet_fast.cli import main; main()"  # -m would look into the working folder first
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)


def run_tests(cell: dict[str, Any]) -> dict[str, Any]:
    """The tests marked gpu."""
    command = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
    command += ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stdout.strip().splitlines()
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    if not counts:
        raise SystemExit((done.stderr.strip().splitlines() or lines or ["no test was run"])[-1])
    return {"counts": counts, "tail": lines[-40:]}


# ---------------------------------------------------------------------------------------------------------------------
# Tiny ImageNet to a given accuracy


def measure_tiny(cell: dict[str, Any]) -> dict[str, Any]:
    """A run of `train` that goes on where it was stopped; training seconds until an epoch's top-1 reached the target.

    The clock counts training with its data, from the end of the first step; validation and compilation are apart.
    """
    from alexnet_fast import TrainConfig, evaluate, train
    from alexnet_fast.dataset import read_dataset_info
    from alexnet_fast.training.recipes import named_recipes

    recipe = "record"
    # A dry run has fewer training images than the recipe's batch.
    batch_size = min(named_recipes()[recipe].batch_size, read_dataset_info(cell["dataset"]).split("train").records)
    overrides = {"width": cell["width"], "stem_stride": 1}  # four times the arithmetic, which a GPU has to spare
    epochs = cell.get("epochs")
    if "share_of_epochs" in cell:
        epochs = max(1, round(named_recipes()[recipe].epochs * cell["share_of_epochs"]))
    run_dir = Path(cell["scratch"]) / cell["name"]
    config = TrainConfig(
        dataset=cell["dataset"], run_dir=run_dir, model=cell["model"], recipe=recipe, epochs=epochs,
        batch_size=batch_size, image_size=cell["image_size"], backend="resident", device=cell["device"],
        compile=cell.get("compile", "auto"),
        checkpoint_every="20s", resume=run_dir.exists(), overrides=overrides,
    )  # fmt: skip
    said: list[str] = []
    result = train(config, say=said.append)
    assert result is not None
    rows = result.rows
    reached, seconds = None, 0.0
    for row in rows:
        seconds += row["seconds"]
        if reached is None and row["val_top1"] is not None and row["val_top1"] >= cell["target"]:
            reached = {"epoch": row["epoch"], "training_seconds": round(seconds, 2)}
    score = evaluate(run_dir / "last.pt", cell["dataset"], tta="flip", device=cell["device"], batch_size=500)
    summary = json.loads((run_dir / "summary.json").read_text())
    return {
        "recipe": recipe,
        "overrides": overrides,
        "epochs": len(rows),
        "target": cell["target"],
        "reached": reached,
        "last_top1": rows[-1]["val_top1"],
        "last_top1_flip": score.top1,
        "training_seconds": round(seconds, 2),
        "wall_seconds": summary["totals"]["seconds"],
        "warm_up_seconds": summary["totals"]["warm_up_seconds"],
        "images_per_s": statistics.median(row["images_per_s"] for row in rows if row["images_per_s"]),
        "data_wait": max(row["data_wait"] for row in rows),
        "rows": rows,
        "said": said[:12],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Pixels


def other_work(device: Any) -> Callable[[], None]:
    """A function that queues `HOLD_BACK` seconds of matrix products, which fill a GPU, on its current stream."""
    import torch

    if device.type != "cuda":
        return lambda: None
    a = torch.randn(8192, 8192, device=device, dtype=torch.float16)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(10):
        torch.mm(a, a, out=out)
    end.record()
    torch.cuda.synchronize()
    count = max(1, round(HOLD_BACK * 1000 / (begin.elapsed_time(end) / 10)))

    def queue() -> None:
        for _ in range(count):
            torch.mm(a, a, out=out)

    return queue


def measure_pixels(cell: dict[str, Any]) -> dict[str, Any]:
    """Hashes of the first batches of one epoch, over and over, with other work queued on the GPU in between."""
    import torch

    hold_back = other_work(torch.device(cell["device"]))
    seen: list[set[str]] = []
    first: list[Any] = []
    with open_backend(cell, dtype="uint8") as loader:
        for _ in range(cell["rounds"]):
            loader.load_state({"epoch": 0, "step": 0})
            for i, batch in enumerate(loader):
                if i == cell["batches"]:
                    break
                hold_back()
                host = batch.images.cpu().permute(0, 2, 3, 1).contiguous()
                digest = hashlib.sha256(host.numpy().tobytes()).hexdigest()
                if i == len(seen):
                    seen.append(set())
                    first.append(host)
                seen[i].add(digest)
        description = loader.description
    if not seen:
        raise SystemExit(f"the data set makes no batch of {cell['batch_size']}")
    apart = []
    on_host = {**cell, "backend": "torchvision", "device": "cpu", "options": {}}
    with open_backend(on_host, dtype="uint8") as reference:
        for ours, theirs in zip(first, reference, strict=False):
            other = theirs.images.permute(0, 2, 3, 1)
            apart.append((ours.short() - other.short()).abs().float().mean(dim=(1, 2, 3)))
    difference = torch.cat(apart)
    changed, worst = sum(len(hashes) > 1 for hashes in seen), difference.max().item()
    return {
        "rounds": cell["rounds"],
        "batches": len(seen),
        "batches_that_changed": changed,
        "mean_difference_to_cpu": difference.mean().item(),
        "largest_of_an_image": worst,
        "trusted": changed == 0 and worst < _WORST_LEVELS,
        "description": description,
    }


# ---------------------------------------------------------------------------------------------------------------------
# The step, loaders, and both together


def measure_step(cell: dict[str, Any]) -> dict[str, Any]:
    """The step on one batch of noise that lies on the device, for several batch sizes."""
    import torch

    rows = []
    for batch_size in cell["batch_sizes"]:
        own = {**cell, "batch_size": batch_size}
        begin = time.perf_counter()
        try:
            step = make_step(own, compile=cell["mode"] == "compile")
            images, labels = noise(own, step.precision.dtype)
            if cell["mode"] == "graphs":
                capture(step, images)
            step(images, labels)

            def work(step: Any = step, images: Any = images, labels: Any = labels) -> int:
                step(images, labels)
                return len(labels)

            found = {"first_step_s": time.perf_counter() - begin, **turns(own, work), **memory()}
        except torch.OutOfMemoryError as error:
            found = {"status": f"out of memory: {str(error).splitlines()[0][:120]}"}
        rows.append({"batch_size": batch_size, "precision": step.precision.name, **found})
        torch._dynamo.reset()
    return {"rows": rows}


def capture(step: Any, images: Any) -> None:
    """Make the network's forward and backward pass a CUDA graph; all else of the step stays as it is."""
    import torch

    with torch.autocast("cuda", dtype=step.precision.dtype, cache_enabled=False):
        torch.cuda.make_graphed_callables(step.model, (images,))


def measure_loader(cell: dict[str, Any]) -> dict[str, Any]:
    """Batches taken and thrown away."""
    begin = time.perf_counter()
    with open_backend(cell) as loader:
        batches = endless(loader)
        next(batches)
        first = time.perf_counter() - begin
        found = turns(cell, lambda: len(next(batches).labels))
        return {**found, "first_batch_s": first, "description": loader.description, **memory()}


def measure_train(cell: dict[str, Any]) -> dict[str, Any]:
    """The step fed by a loader, and in turn with it the same step on a batch that lies on the device."""
    step = make_step(cell)
    with open_backend(cell, dtype=step.precision.dtype) as loader:
        return {**_fed(cell, step, endless(loader)), "description": loader.description, **memory()}


def _fed(cell: dict[str, Any], step: Any, batches: Iterator[Any]) -> dict[str, Any]:
    """Rates of the step fed with `batches` and without; `gpu_waits` is the share of time its stream stood still."""
    import torch

    still_images, still_labels = noise(cell, step.precision.dtype)
    cuda = cell["device"].startswith("cuda")
    spans: list[tuple[Any, Any]] = []

    def alone() -> int:
        step(still_images, still_labels)
        return len(still_labels)

    def fed() -> int:
        images, labels = next(batches)
        if cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
        step(images, labels)
        if cuda:
            end.record()
            spans.append((begin, end))
        return len(labels)

    synthetic, trained, waits = [], [], []
    for number in range(cell["turns"] + 1):
        synthetic.append(turn(cell, alone))
        spans.clear()
        trained.append(turn(cell, fed))
        if cuda and number:
            waits.append(_waits(spans))
    found = rates(trained[1:])
    ceiling = statistics.median(synthetic[1:])
    return {
        **found,
        "synthetic_per_s": ceiling,
        "share": found["images_per_s"] / ceiling,
        "gpu_waits": statistics.median(waits) if waits else None,
        "precision": step.precision.name,
    }


def _waits(spans: list[tuple[Any, Any]]) -> float:
    """Share of time between the end of one step and the begin of the next on the stream."""
    gaps = used = 0.0
    for (_, before), (begin, end) in itertools.pairwise(spans):
        gap = before.elapsed_time(begin)
        gaps, used = gaps + gap, used + gap + begin.elapsed_time(end)
    return gaps / used if used else 0.0


def measure_syncs(cell: dict[str, Any]) -> dict[str, Any]:
    """How often a step with its batch makes the host wait, as PyTorch's own debug mode counts.

    It sees copies to and from pageable memory and reads of a value; not waits for an event or a stream.
    """
    import torch

    step, counted = make_step(cell), 20
    with open_backend(cell, dtype=step.precision.dtype) as loader:
        batches = endless(loader)
        for _ in range(10):
            step(*next(batches))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(counted):
                step(*next(batches))
        torch.cuda.set_sync_debug_mode("default")
    found = [str(w.message).splitlines()[0] + f" ({Path(w.filename).name}:{w.lineno})" for w in caught]
    found = [text for text in found if "synchroniz" in text]
    return {"steps": counted, "syncs_a_step": len(found) / counted, "where": sorted(set(found))[:10]}


# ---------------------------------------------------------------------------------------------------------------------
# Peers


def measure_peers(cell: dict[str, Any]) -> dict[str, Any]:
    """Another program's batches of the same records, feeding the same step."""
    step = make_step(cell)
    source = {"dali": dali_batches, "torchvision": torchvision_batches, "ffcv": ffcv_batches}[cell["peer"]]
    return {**_fed(cell, step, source(cell, step.precision.dtype)), **memory()}


def _shards(dataset: str) -> list[str]:
    from alexnet_fast.dataset import read_dataset_info

    return [str(Path(dataset) / shard.path) for shard in read_dataset_info(dataset).split("train").shards]


def dali_batches(cell: dict[str, Any], dtype: Any) -> Iterator[Any]:
    """DALI's own reader, random crop and normalisation, as its examples for ImageNet write them."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    cuda = cell["device"].startswith("cuda")
    size, paths = cell["image_size"], _shards(cell["dataset"])
    number = int(cell["device"].partition(":")[2] or 0) if cuda else None

    @pipeline_def(batch_size=cell["batch_size"], num_threads=cell["cores"], device_id=number, prefetch_queue_depth=2)
    def pipeline() -> Any:
        jpegs, labels = fn.readers.caffe(path=paths, random_shuffle=True, name="reader")
        images = fn.decoders.image_random_crop(
            jpegs, device="mixed" if cuda else "cpu", output_type=types.RGB, random_area=(0.08, 1.0),
            random_aspect_ratio=(3 / 4, 4 / 3), num_attempts=10, hw_decoder_load=0.0,
        )  # fmt: skip
        images = fn.resize(images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True)
        images = fn.crop_mirror_normalize(
            images, mirror=fn.random.coin_flip(), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
            dtype=types.FLOAT16 if cuda else types.FLOAT, output_layout="HWC",
        )  # fmt: skip
        return images, labels.gpu() if cuda else labels

    batches = DALIGenericIterator(
        [pipeline()], ["images", "labels"], reader_name="reader", auto_reset=True,
        last_batch_policy=LastBatchPolicy.DROP,
    )  # fmt: skip
    while True:
        for (batch,) in batches:
            yield batch["images"].permute(0, 3, 1, 2).to(dtype), batch["labels"].squeeze(-1).long()


def torchvision_batches(cell: dict[str, Any], dtype: Any) -> Iterator[Any]:
    """torchvision's decode_jpeg and its transforms, on the device."""
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    from alexnet_fast import ShardReader

    device, size = torch.device(cell["device"]), cell["image_size"]
    reader = ShardReader(cell["dataset"], "train")
    crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    mean = torch.tensor([123.675, 116.28, 103.53], device=device).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375], device=device).view(3, 1, 1)
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(len(reader))
        for begin in range(0, len(order) - cell["batch_size"] + 1, cell["batch_size"]):
            records = order[begin : begin + cell["batch_size"]]
            jpegs = [torch.from_numpy(np.array(view)) for view in reader.view_many(records)]
            images = decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)
            batch = torch.stack([crop(image) for image in images])
            labels = torch.from_numpy(reader.labels[records]).to(device)
            yield ((batch - mean) / std).to(dtype, memory_format=torch.channels_last), labels


def ffcv_batches(cell: dict[str, Any], dtype: Any) -> Iterator[Any]:
    """FFCV's file of the same JPEGs, its decoder on the host, normalised on the device."""
    import numpy as np
    import torch
    from ffcv.fields import BytesField, IntField, RGBImageField  # noqa: F401
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter
    from PIL import Image

    from alexnet_fast import ShardReader

    reader = ShardReader(cell["dataset"], "train")

    class Records:
        def __len__(self) -> int:
            return len(reader)

        def __getitem__(self, i: int) -> tuple[Any, int]:
            import io

            return Image.open(io.BytesIO(reader.read(i))).convert("RGB"), int(reader.labels[i])

    path = Path(cell["scratch"]) / f"{cell['name']}.beton"
    if not path.exists():
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
        DatasetWriter(str(path), fields, num_workers=cell["cores"]).from_indexed_dataset(Records())
    size, device = cell["image_size"], torch.device(cell["device"])
    pipelines = {
        "image": [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()],
        "label": [IntDecoder(), ToTensor(), Squeeze()],
    }
    loader = Loader(
        str(path), batch_size=cell["batch_size"], num_workers=cell["cores"], order=OrderOption.RANDOM, os_cache=True,
        drop_last=True, pipelines=pipelines,
    )  # fmt: skip
    mean = torch.tensor(np.array([123.675, 116.28, 103.53], np.float32), device=device).view(3, 1, 1)
    std = torch.tensor(np.array([58.395, 57.12, 57.375], np.float32), device=device).view(3, 1, 1)
    while True:
        for images, labels in loader:
            moved = images.to(device, non_blocking=True).to(memory_format=torch.channels_last)
            yield ((moved - mean) / std).to(dtype), labels.to(device, non_blocking=True).long()


# ---------------------------------------------------------------------------------------------------------------------
# Commands as typed


def measure_bench(cell: dict[str, Any]) -> dict[str, Any]:
    """`bench-loader` as typed: its rows, and what it recommends and says."""
    folder = Path(cell["scratch"]) / cell["name"]
    words = ["bench-loader", cell["dataset"], "--image-size", str(cell["image_size"])]
    words += ["--batch-size", str(min(cell["batch_size"], 256)), "--out", str(folder), *cell["words"]]
    done = _command(*words, "--device", cell["device"].partition(":")[0])
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    result = json.loads((folder / "bench-loader.json").read_text())
    wanted = ("backend", "num_workers", "pin_memory", "batch_size", "images_per_s", "spread", "status")
    return {
        "rows": [{key: row.get(key) for key in wanted} for row in result["rows"]],
        "recommendation": result["recommendation"],
        "explanation": result["explanation"],
    }


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "setup": measure_setup,
    "tiny": measure_tiny,
    "pixels": measure_pixels,
    "train": measure_train,
    "step": measure_step,
    "peers": measure_peers,
    "syncs": measure_syncs,
    "bench": measure_bench,
    "loader": measure_loader,
}


def perform(kind: str, cell: dict[str, Any], answer: str) -> None:
    """The life of a cell's process: measure, and write what came of it to the file `answer`."""
    os.setsid()  # so that all it starts can be ended with it
    log = os.open(answer + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from alexnet_fast.errors import StoppedError

    try:
        found = {"status": "ok", **(facts() if kind == "facts" else KINDS[kind](cell))}
    except StoppedError as stopped:
        found = {"status": f"stopped: {stopped}"}
    except BaseException as error:
        import traceback

        traceback.print_exc()
        words = " ".join(str(error).split())[:300]
        found = {"status": f"failed: {words if isinstance(error, SystemExit) else f'{type(error).__name__}: {words}'}"}
    aside = answer + ".part"
    Path(aside).write_text(json.dumps(found))
    os.replace(aside, answer)
    sys.stdout.flush()
    os._exit(0)  # a library that hangs or crashes when it is torn down takes nothing back
