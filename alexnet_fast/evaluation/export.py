"""A trained network as one file that other programs read: ONNX, safetensors or a torch.export program.

The ONNX and pt2 networks take what a decoder gives, uint8 RGB images (N, 3, S, S), and answer with probabilities
(N, classes): normalisation and softmax are inside. How to get from an image to S x S, and the names of the classes,
are in the file's metadata. safetensors holds the weights alone, with the same metadata.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import METADATA
from ..errors import AlexNetFastError, MissingDependencyError, UsageError
from ..images import IMAGENET_MEAN, IMAGENET_STD, eval_resize
from ..system import check_writable
from ..words import counted

if TYPE_CHECKING:
    import torch

    from ..training import LoadedRun

FORMATS = (".onnx", ".safetensors", ".pt2")
# Probabilities computed by another runtime differ by rounding; more than this is another network.
_TOLERANCE = 1e-4
_OPSET = 18


def export(run: Path | str, target: Path | str) -> str:
    """Write RUN's network to TARGET, whose ending chooses the form, read it back and compare it with the original.

    Returns:
        What was written and how it was checked, in words.

    Raises:
        UsageError: the ending is none of `FORMATS`, the file's folder is missing, or the run is none.
        MissingDependencyError: the form needs a package that is not installed.
        AlexNetFastError: what was written does not compute what the original does; the file is not kept.
    """
    path = Path(target)
    if path.suffix not in FORMATS:
        raise UsageError(f"the file's ending chooses the form, one of {', '.join(FORMATS)}: got {str(path)!r}")
    check_writable(path, "FILE")
    writers: dict[str, tuple[tuple[str, ...], Callable[[LoadedRun, Path], str]]] = {
        ".onnx": (("onnx", "onnxscript"), _write_onnx),
        ".safetensors": (("safetensors",), _write_safetensors),
        ".pt2": ((), _write_pt2),
    }
    needed, write = writers[path.suffix]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"writing {path.suffix} needs {' and '.join(missing)}: pip install 'alexnet-fast[export]'"
        )
    from ..training import load_run

    loaded = load_run(run)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with _quiet():
            checked = write(loaded, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    size = path.stat().st_size / 1e6
    return f"{path}: {loaded.description}, {counted(loaded.model.num_classes, 'class')}, {size:,.1f} MB\n{checked}"


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of their own insides, which nobody who exports an AlexNet can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(loaded: LoadedRun) -> dict[str, Any]:
    """What a program needs besides the weights: every argument of `create_model`, preprocessing, classes, metrics."""
    from ..version import __version__
    from .predict import class_names

    recipe = loaded.config.get("recipe", {})
    return {
        "alexnet_fast": __version__,
        "model": loaded.config["model"],
        # With image_size and the number of classes, these are the arguments of create_model.
        "width": recipe.get("width", 1),
        "hidden": recipe.get("hidden"),
        "dropout": recipe.get("dropout"),
        "stem_stride": recipe.get("stem_stride"),
        "init": loaded.model.architecture.init,
        "image_size": loaded.image_size,
        "epoch": loaded.epoch,
        "metrics": dict(loaded.metrics or {}),
        "preprocessing": {
            "colour": "RGB",
            "resize_shorter_side": eval_resize(loaded.image_size),
            "filter": "bilinear, antialiased",
            "centre_crop": loaded.image_size,
            "scale": 1 / 255,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        },
        "classes": [{"index": i, "wnid": w, "name": n} for i, (w, n) in enumerate(class_names(loaded))],
    }


def _metadata_text(loaded: LoadedRun) -> str:
    return json.dumps(metadata(loaded), ensure_ascii=False)


def _program(loaded: LoadedRun) -> torch.nn.Module:
    """uint8 images in, probabilities out."""
    import torch

    class Program(torch.nn.Module):
        scale: torch.Tensor
        bias: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = loaded.model
            std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
            mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64)
            self.register_buffer("scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
            self.register_buffer("bias", (-mean / std).float().view(1, 3, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.network(pixels.float() * self.scale + self.bias), 1)

    return Program().eval()


def _pixels(loaded: LoadedRun, count: int) -> torch.Tensor:
    import torch

    size = loaded.image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def _exported(loaded: LoadedRun) -> Any:
    import torch

    batch = torch.export.Dim("batch", min=1, max=65536)
    return torch.export.export(_program(loaded), (_pixels(loaded, 2),), dynamic_shapes={"pixels": {0: batch}})


def _compare(loaded: LoadedRun, other: Callable[[torch.Tensor], torch.Tensor], counts: tuple[int, ...]) -> float:
    """The largest difference of a probability over batches of each size.

    Raises:
        AlexNetFastError: it is more than rounding.
    """
    import torch

    program, most = _program(loaded), 0.0
    with torch.no_grad():
        for count in counts:
            pixels = _pixels(loaded, count)
            most = max(most, float((program(pixels) - other(pixels)).abs().max()))
    if not most <= _TOLERANCE:
        raise AlexNetFastError(
            f"the exported network differs from the original by {most:.2g} in a probability, so it was not kept: "
            "please report this with the output of `alexnet-fast doctor`"
        )
    return most


def _write_onnx(loaded: LoadedRun, path: Path) -> str:
    import onnx
    import torch

    program = torch.onnx.export(
        _exported(loaded), dynamo=True, opset_version=_OPSET, input_names=["pixels"], output_names=["probabilities"],
        verbose=False,
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    model.doc_string = "uint8 RGB images (N, 3, S, S) in, probabilities (N, classes) out; see the metadata"
    _name_batch(model.graph)
    onnx.helper.set_model_props(model, {METADATA: _metadata_text(loaded)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    runner, run = _onnx_runner(path)
    most = _compare(loaded, run, (1, 3))
    return f"checked with {runner}: probabilities differ from the original's by {most:.1g} at most"


def _name_batch(graph: Any) -> None:
    """Call the first axis of what goes in, of what comes out and of all between 'batch', whatever torch called it."""
    made_up = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == made_up:
                axis.dim_param = "batch"


def _onnx_runner(path: Path) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
    """onnxruntime where it is installed, else the slow reference that comes with onnx."""
    import torch

    session: Any
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session, name = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), "onnxruntime"
    else:
        from onnx.reference import ReferenceEvaluator

        session, name = ReferenceEvaluator(str(path)), "onnx's reference"
    return name, lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _write_safetensors(loaded: LoadedRun, path: Path) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    weights = {name: tensor.contiguous() for name, tensor in loaded.model.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt", METADATA: _metadata_text(loaded)})
    back = load_file(path)
    if back.keys() != weights.keys() or not all(torch.equal(back[name], weights[name]) for name in weights):
        raise AlexNetFastError("the weights that were written read back differently, so the file was not kept")
    return f"checked: all {len(weights)} tensors read back bit for bit"


def _write_pt2(loaded: LoadedRun, path: Path) -> str:
    import torch

    torch.export.save(_exported(loaded), path, extra_files={f"{METADATA}.json": _metadata_text(loaded)})
    back = torch.export.load(path).module()
    most = _compare(loaded, back, (1, 3))
    return f"checked with torch.export.load: probabilities differ from the original's by {most:.1g} at most"
