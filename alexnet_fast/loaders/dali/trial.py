"""Whether a GPU's JPEG decoder can be trusted with regions: tried once, in another process, and remembered.

A decoder that cannot may end the whole process. nvImageCodec 0.9.0 was reported to do so on H100 and B200 (SIGSEGV) and
to fail with an internal error on A100, where 0.8.0 works (NVIDIA/nvImageCodec, issue 55). So the question is put to a
process whose end harms nobody, and its images are compared with those of whole decoding.

DALI 2.2 brings nvImageCodec 0.8, DALI 2.3 and 2.4 ask for 0.9. So constraints.txt names 2.2, the newest that decodes
regions on these GPUs, and with a later one the loader says so (`advice`).
"""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...system import Child, ChildError

if TYPE_CHECKING:
    import torch

_SECONDS = 180
# Images, and rounds of all of them: several batches are under way at once, as in training.
_IMAGES, _ROUNDS = 32, 4
# The two ways upsample chroma from different neighbours at a region's edge; a mean over all pixels hardly shows it.
_MEAN_DIFFERENCE = 1.0
_passing: dict[str, str] = {}  # answers that may be other ones in the next process
_PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13")


def region_decoding_fails(
    device: torch.device, *, hw_decoder_load: float = 0.0, cache: Path | None = None
) -> str | None:
    """Why regions cannot be decoded on this GPU, in a few words; None where they can.

    An answer that will be the same next time is kept in `cache` (a file; by default under the user's ~/.cache) for this
    GPU, driver, use of the JPEG engines and versions of DALI and nvImageCodec. Another (the GPU's memory was full, the
    trial hung or was not started, something killed it) is kept for this process alone.
    """
    cache = Path.home() / ".cache" / "alexnet-fast" / "dali-regions.json" if cache is None else cache
    key = _machine(device) + f", engines {'used' if hw_decoder_load > 0 else 'unused'}"
    known = _read(cache) | _passing
    if key not in known:
        known[key], lasting = probe(device, hw_decoder_load=hw_decoder_load)
        if lasting:
            _write(cache, {**_read(cache), key: known[key]})
        else:
            _passing[key] = known[key]
    answer = known[key]
    return None if answer == "works" else str(answer)


def advice() -> str:
    """What to install where decoding regions fails and this nvImageCodec is known for it; else nothing."""
    installed = [_version(package) or "" for package in _PACKAGES if "nvimgcodec" in package]
    if not any(text.startswith("0.9.0") for text in installed):
        return ""
    return "; nvImageCodec 0.9.0 is known for it, and `pip install 'nvidia-dali-cuda120<2.3'` brings 0.8"


def probe(device: torch.device, *, hw_decoder_load: float = 0.0) -> tuple[str, bool]:
    """('works' or what went wrong, whether it would be the same next time), from a process of its own.

    It takes about 10 s; one that hangs is ended after 3 minutes.
    """
    try:
        with Child(__name__, keep_stderr=True) as child:
            return str(child.call(compare_regions, str(device), hw_decoder_load, timeout=_SECONDS)), True
    except ChildError as error:
        if error.how.startswith("hung"):
            return f"decoding regions hung for {_SECONDS} s here", False
        # SIGKILL is the system's, for want of memory, and no decoder's.
        return f"decoding regions crashes here ({error.how})", "SIGKILL" not in error.how
    except OSError as error:
        return f"the trial could not be started: {error.strerror or error}", False
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return f"decoding regions fails here: {reason[:200]}", False


def _machine(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}, driver {_driver()}"
    else:
        name = "cpu"
    return ", ".join([name, *(f"{package} {installed}" for package in _PACKAGES if (installed := _version(package)))])


def _driver() -> str:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(cache: Path) -> dict[str, Any]:
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(cache: Path, known: dict[str, Any]) -> None:
    aside = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(known, indent=2, sort_keys=True))
        aside.replace(cache)
    except OSError:
        pass  # a home that cannot be written to: the next loader asks again


def compare_regions(device_name: str, hw_decoder_load: float) -> str:
    """In the process of its own: 'works', or what is wrong with the pixels of regions."""
    import torch

    device = torch.device(device_name)
    regions = _decode(device, region=True, hw_decoder_load=hw_decoder_load)
    whole = _decode(device, region=False, hw_decoder_load=0.0)
    if any(not torch.equal(regions[0], regions[i]) for i in range(1, _ROUNDS)):
        return "decoding regions gives other pixels each time here"
    difference = (regions[0].float() - whole[0].float()).abs().mean().item()
    if difference > _MEAN_DIFFERENCE:
        return f"decoding regions gives wrong pixels here (mean difference {difference:.1f})"
    return "works"


def _decode(device: torch.device, *, region: bool, hw_decoder_load: float) -> list[torch.Tensor]:
    """Crops of `_IMAGES` made images, `_ROUNDS` times: each uint8 (n, 3, 64, 64) on the CPU."""
    import torch

    from ...images import sample_crops
    from .pipeline import Decoding, build_pipeline, cut_train, take_images

    jpegs, heights, widths = _images()
    records = np.arange(len(jpegs))
    cuts = cut_train(sample_crops(0, 0, records, heights, widths), records % 2 == 1)
    rounds = iter(range(_ROUNDS))

    def source() -> tuple[list[Any], ...]:
        next(rounds)
        return (jpegs, *cuts)  # type: ignore[return-value]

    pipeline = build_pipeline(
        source,
        batch_size=len(jpegs),
        image_size=64,
        num_threads=4,
        device_id=device.index if device.type == "cuda" else None,
        depth=3,
        decoding=Decoding(
            region=region,
            hw_decoder_load=hw_decoder_load,
            largest=(int(widths.max()), int(heights.max())),
            most_pixels=int((heights * widths).max()),
        ),
    )
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    pipeline.schedule_run()
    taken = []
    for _ in range(_ROUNDS):
        taken.append(take_images(pipeline, stream))
        pipeline.schedule_run()
    return [images.cpu() for images in taken]


def _images() -> tuple[list[Any], Any, Any]:
    """Smooth colour images of ImageNet's sizes, half of them with halved chroma, one in eight grey."""
    import simplejpeg

    random = np.random.default_rng(0)
    jpegs, sizes = [], []
    for i in range(_IMAGES):
        height, width = (int(side) for side in random.integers(120, 520, 2))
        y, x = np.mgrid[0:height, 0:width] / 50.0
        waves = [np.sin(x * random.uniform(-2, 2) + y * random.uniform(-2, 2) + shift) for shift in (0, 2, 4)]
        pixels = (128 + 90 * np.stack(waves, axis=2) + random.normal(0, 4, (height, width, 3))).clip(0, 255)
        image = np.ascontiguousarray(pixels.astype(np.uint8))
        if i % 8 == 7:
            jpeg = simplejpeg.encode_jpeg(image[..., :1].copy(), 90, "GRAY")
        else:
            jpeg = simplejpeg.encode_jpeg(image, 90, "RGB", "420" if i % 2 else "444")
        jpegs.append(np.frombuffer(jpeg, np.uint8))
        sizes.append((height, width))
    heights, widths = np.array(sizes).T
    return jpegs, heights, widths
