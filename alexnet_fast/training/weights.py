"""An AlexNet's weights out of the files that people have them in, whatever program wrote those.

Nothing in a file is run. Objects of other programs that lie beside the weights (a namespace of options, a scheduler's
settings) are passed over; what is no weights at all is named for what it is.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import METADATA
from ..dataset import ClassInfo
from ..errors import DamagedDataError, MissingDependencyError, UsageError
from ..models import ARCHITECTURES, AlexNet, create_model

_IMAGE_SIZE = 224  # what the weights of others were made for
# Where trainers keep the weights in what they save, a running mean before the weights themselves.
_KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state", "model",
    "net", "network", "weights", "params", "module", "state",
)  # fmt: skip
# What wraps a network leaves in the names: DataParallel, torch.compile.
_WRAPPERS = {"module", "_orig_mod"}
_SHOWN = 3
# A file that wants one of their functions called wants to run a program.
_PROGRAMS = ("builtins", "__builtin__", "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "runpy", "pty")
_GLOBAL = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module)")


@dataclass(frozen=True)
class Weights:
    """A network made of a file's weights.

    Attributes:
        model: in evaluation mode, float32, on the CPU.
        name: of `alexnet_fast.config.MODELS`.
        classes: in label order; empty where the file names none.
        network: the arguments of `create_model` besides, {width, hidden, dropout, stem_stride}.
        note: what of the file was used or left out, '' where there was nothing to choose.
    """

    model: AlexNet
    name: str
    image_size: int
    classes: tuple[ClassInfo, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class _StandIn:
    """What is made in place of an object of another program's that lies beside the weights; it does nothing.

    Attributes:
        stands_for: the full name of the other's class.
    """

    stands_for = ""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def read_file(path: Path) -> dict[str, Any]:
    """What a file of torch.save or of safetensors holds: a dict; of safetensors, of tensors by name.

    Raises:
        UsageError: it is something else; the text says what.
        DamagedDataError: it is damaged, or asks to run a program.
    """
    _refuse_other_kinds(path)
    try:
        content = _load_safetensors(path) if _is_safetensors(path) else _load_pickled(path)
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (UsageError, DamagedDataError):
        raise
    except Exception as error:  # torch raises half a dozen kinds for a file that is cut or is something else
        raise DamagedDataError(
            f"{path} is damaged or is not a checkpoint ({type(error).__name__}): copy it again, or use another one"
        ) from None
    if isinstance(content, _StandIn):
        raise UsageError(_whole_model(path, content))
    if not isinstance(content, Mapping):
        raise UsageError(
            f"{path} holds a {type(content).__name__} where weights have names: save a state_dict, and give that file"
        )
    return dict(content)


def read_weights(path: Path, content: Mapping[str, Any]) -> Weights:
    """The AlexNet whose weights `content` holds, which `read_file` found in `path`.

    Raises:
        UsageError: they are of another network, of an AlexNet that lacks some, or of a size that they do not tell.
        DamagedDataError: there are no weights at all, or some are no numbers.
    """
    own = _own_metadata(path) if _is_safetensors(path) else None
    found, where = _find_tensors(content)
    if not found:
        model = next((content[key] for key in _KEYS if isinstance(content.get(key), _StandIn)), None)
        if model is not None:
            raise UsageError(_whole_model(path, model))
        listed = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise DamagedDataError(
            f"{path} holds neither a checkpoint of alexnet-fast nor the weights of an AlexNet (it holds {listed}): "
            "give a run folder"
        )
    tensors, left_out = _plain_names(found)
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    bad = next((name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if bad is not None:
        raise DamagedDataError(f"{path}: {bad} holds values that are no numbers: use another checkpoint")
    notes = [f"its {where}"] if where else []
    if left_out:
        notes.append(f"without {_some(left_out)}")
    made = _from_metadata(path, own, tensors) if own is not None else _from_shapes(path, tensors)
    made.model.load_state_dict(tensors, assign=True)
    return replace(made, model=made.model.eval(), note=", ".join(filter(None, [*notes, made.note])))


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and path.stat().st_size >= 8 + struct.unpack("<Q", head[:8])[0]


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise MissingDependencyError(f"reading {path} needs safetensors: pip install 'alexnet-fast[export]'") from None
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def _own_metadata(path: Path) -> dict[str, Any] | None:
    """What `export` wrote of the network into a safetensors file; None where another program wrote the file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        head = json.loads(file.read(size))
    text = head.get("__metadata__", {}).get(METADATA)
    if text is None:
        return None
    try:
        content = json.loads(text)
        return dict(content)
    except (TypeError, ValueError):
        raise DamagedDataError(f"{path} is damaged (its metadata are no JSON): export it again") from None


def _load_pickled(path: Path) -> Any:
    """What torch.load finds, with stand-ins for the objects of other programs.

    Raises:
        DamagedDataError: it asks for a program to be run.
    """
    _check_sums(path)
    stand_ins: dict[str, type] = {}
    while True:
        allowed: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
        except pickle.UnpicklingError as error:
            name = _wanted(str(error))
            if name is None or name in stand_ins:
                raise
            if name.partition(".")[0] in _PROGRAMS or "." not in name:
                raise DamagedDataError(
                    f"{path} asks to run {name} when it is read, which weights never need: do not use it "
                    "(UnpicklingError)"
                ) from None
            stand_ins[name] = type("StandIn", (_StandIn,), {"stands_for": name})


def _wanted(text: str) -> str | None:
    """The object that torch's reader of weights refused to make, by its full name."""
    found = _GLOBAL.search(text)
    return found[1].strip("`'\".,:") if found else None


def _whole_model(path: Path, model: _StandIn) -> str:
    return (
        f"{path} holds a whole pickled model ({model.stands_for}), which only the program that saved it can read: "
        "there, save its weights with torch.save(model.state_dict(), FILE), and give that file"
    )


def _check_sums(path: Path) -> None:
    """Compare each part of a checkpoint with its CRC-32, which torch.load does not: a flipped bit would go unseen."""
    if not zipfile.is_zipfile(path):
        return  # torch's format of before 1.6, which holds no sums
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(bad)


_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "a numpy file: load it in the program that it is from, and save the weights with torch.save"),
    (b"\x89HDF", "an HDF5 file, as Keras and TensorFlow write: convert its weights to PyTorch's first"),
    (b"GGUF", "a GGUF file, which holds a language model: give an AlexNet's weights"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"%PDF", "a PDF: give an AlexNet's weights"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights: fetch them with `git lfs pull`"),
    (b"<!doctype", "a web page, perhaps an error page: download the weights again"),
    (b"<html", "a web page, perhaps an error page: download the weights again"),
)
_FOREIGN = {".caffemodel", ".tflite", ".mlmodel", ".engine", ".pb", ".h5", ".keras", ".mat"}


def _refuse_other_kinds(path: Path) -> None:
    """Name a file that is something else than weights, by its first bytes, its name, or what its zip holds."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise DamagedDataError(f"{path} is empty: copy or download it again")
    page = head.lstrip().lower()
    kind = next((words for magic, words in _OTHERS if head.startswith(magic) or page.startswith(magic)), "")
    suffix = path.suffix.lower()
    if not kind and head[257:262] == b"ustar":
        kind = "a tar archive: unpack it first"
    elif not kind and suffix == ".onnx":
        kind = (
            "an ONNX file, whose weights no longer have PyTorch's names: give the run or the weights it was made from"
        )
    elif not kind and suffix in _FOREIGN:
        kind = f"a {suffix} file of another framework: convert its weights to PyTorch's first"
    elif not kind and zipfile.is_zipfile(path):
        kind = _zip_kind(path)
    if kind:
        raise UsageError(f"{path} is {kind}")


def _zip_kind(path: Path) -> str:
    """What a zip is that torch.save did not write, '' for one that it did."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # the last two: a flipped bit in the list
        return ""  # its damage is told where it is read
    tails = {name.partition("/")[2] for name in names}
    if "constants.pkl" in tails:
        return "a TorchScript program: save the weights of the network it was made from with torch.save"
    if any(tail.startswith("models/") or tail == "archive_format" for tail in tails):
        return "a torch.export program, which holds no weights by name: give the run that it was exported from"
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy .npz file: load it in the program that it is from, and save the weights with torch.save"
    if "data.pkl" not in tails and "data.pkl" not in names:
        return "a zip archive: unpack it first"
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# Which tensors, under which names


def _find_tensors(content: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """The weights in what a trainer saved, and under which key they were, '' for the top."""
    for key in _KEYS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            tensors, deeper = _find_tensors(inner)
            if tensors:
                return tensors, ".".join(filter(None, (key, deeper)))
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    return (tensors, "") if any(t.dim() > 1 for t in tensors.values()) else ({}, "")


def _plain_names(found: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors by the names that they have in the network alone, and the names of those that are not part of it.

    `module._orig_mod.features.0.weight`, `model.features.0.weight` and `features.module.0.weight` are one.
    """
    bare = {".".join(part for part in name.split(".") if part not in _WRAPPERS): t for name, t in found.items()}
    prefixes = {
        name[: name.index(part)]
        for name in bare
        for part in ("features.", "classifier.")
        if name.startswith(part) or f".{part}" in name
    }
    if len(prefixes) != 1:
        return bare, []
    (prefix,) = prefixes
    inside = {name.removeprefix(prefix): t for name, t in bare.items() if name.startswith(prefix)}
    return inside, sorted(set(bare) - {prefix + name for name in inside})


# ---------------------------------------------------------------------------------------------------------------------
# Which network


def _from_metadata(path: Path, own: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Weights:
    """The network that our own metadata describe.

    Raises:
        DamagedDataError: they do not fit the weights, or each other.
    """
    try:
        classes = tuple(ClassInfo(index=c["index"], wnid=c["wnid"], name=c["name"]) for c in own["classes"])
        network = {"width": own.get("width", 1)}
        network |= {name: own.get(name) for name in ("hidden", "dropout", "stem_stride")}
        with torch.device("meta"):
            model = create_model(own["model"], len(classes), own["image_size"], **network)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedDataError(f"{path} is damaged (its metadata: {error}): export it again") from None
    wrong = _misfits(model, tensors)
    if wrong:
        raise DamagedDataError(f"{path} is damaged (its metadata say {own['model']}, but {wrong}): export it again")
    # Before 0.2 the metadata left the first stride out, and no shape tells it.
    old = "" if "stem_stride" in own else "taken to have its network's own first stride, which its metadata leave out"
    if all(not c.wnid for c in classes):
        classes = ()
    return Weights(model, own["model"], own["image_size"], classes, network, old)


def _from_shapes(path: Path, tensors: Mapping[str, torch.Tensor]) -> Weights:
    """The network at 224 pixels whose tensors have these names and shapes.

    Raises:
        UsageError: there is none; the text says what is missing or does not fit.
    """
    best: tuple[int, str, AlexNet] | None = None
    for name, width, classes in _candidates(tensors):
        with torch.device("meta"):
            model = create_model(name, classes, _IMAGE_SIZE, width=width)
        if not _misfits(model, tensors):
            network = {"width": width, "dropout": None, "stem_stride": None}
            return Weights(model, name, _IMAGE_SIZE, network=network)
        expected = model.state_dict()
        fitting = sum(k in tensors and tensors[k].shape == v.shape for k, v in expected.items())
        if best is None or fitting > best[0]:
            best = fitting, name, model
    if best is None:
        raise UsageError(
            f"{path} does not hold the weights of a whole AlexNet (it holds {_some(list(tensors))}): "
            "give a run folder, or all the weights of an AlexNet"
        )
    _, name, model = best
    if _is_small(model, tensors):
        raise UsageError(
            f"{path} holds the weights of an {name} for smaller images, and does not say of which size: give the run "
            "folder, or a .safetensors file that `alexnet-fast export` makes of it, which does"
        )
    raise UsageError(
        f"{path} fits no AlexNet here; {name} comes nearest, but {_misfits(model, tensors)}: "
        "give all of its weights and no others, or a run folder"
    )


def _candidates(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, float, int]]:
    """(name, width, classes) of networks that weights of five convolutions may be of, the published widths first."""
    order = sorted(tensors, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")])
    convs = [tensors[k] for k in order if k.startswith("features.") and tensors[k].dim() == 4]
    linears = [tensors[k] for k in order if k.startswith("classifier.") and tensors[k].dim() == 2]
    if len(convs) != 5 or not linears:
        return
    classes = int(linears[-1].shape[0])
    for name in ARCHITECTURES:
        yield name, 1.0, classes
    # Channels and hidden units are rounded to eights: so the widths that give the same hidden units lie this near.
    hidden = int(linears[0].shape[0])
    for name, architecture in ARCHITECTURES.items():
        for off in (0.0, -3.0, 3.0, -1.5, 1.5):
            width = (hidden + off) / architecture.hidden
            if 0 < width <= 4:
                yield name, width, classes


def _is_small(model: AlexNet, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether nothing but the kernel of the first layer and the input of the first hidden one is another."""
    expected = model.state_dict()
    hidden = next(k for k, v in expected.items() if k.startswith("classifier.") and v.dim() == 2)
    other = {k for k in expected if k not in tensors or tensors[k].shape != expected[k].shape}
    return expected.keys() == tensors.keys() and bool(other) and other <= {"features.0.weight", hidden}


def _misfits(model: AlexNet, tensors: Mapping[str, torch.Tensor]) -> str:
    """What of the tensors does not fit the network, in words about the file; '' where all do."""
    expected = model.state_dict()
    missing = [k for k in expected if k not in tensors]
    unknown = [k for k in tensors if k not in expected]
    other = [
        f"{k} (is {_shape(tensors[k])}, would be {_shape(v)})"
        for k, v in expected.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    parts = [
        f"{words} {_some(names)}"
        for words, names in (("lacks", missing), ("has besides", unknown), ("differs in the shape of", other))
        if names
    ]
    return "it " + " and ".join(parts) if parts else ""


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
