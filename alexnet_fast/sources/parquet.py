"""Parquet shards as the Hugging Face hub has data sets: a column of encoded images and a column of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DamagedDataError, MissingDependencyError, UsageError
from .account import Account
from .classes import MOST_CLASSES, Classes, order_classes
from .labels import WNID
from .listing import Listing
from .names import check_utf8, refuse_equal_names, shown
from .reading import LARGEST_FILE
from .recognise import describe_file
from .splits import Wanted, in_order
from .staging import Staging, check_growth
from .table import RANGE, ImageList, Source

_BATCH_ROWS = 64
_BATCH_BYTES = 64 << 20
_IMAGE_COLUMNS = ("image", "img", "jpg", "picture", "bytes")
_LABEL_COLUMNS = ("label", "labels", "cls", "class", "target", "fine_label")
# A column that is called so may hold labels: it is not passed over without a word.
_LABEL_WORDS = re.compile(r"label|class|target|categor|wnid|synset|species|breed|^y$", re.IGNORECASE)


def has_images(path: Path) -> bool:
    """Whether a parquet file has a column of images.

    Raises:
        DamagedDataError: it is torn.
        MissingDependencyError: pyarrow is not installed.
    """
    schema = _open(path).schema_arrow
    features = _features(schema.metadata or {})
    return any(f.get("_type") == "Image" for f in features.values()) or any(n in schema.names for n in _IMAGE_COLUMNS)


def read_parquet(
    name: str,
    files: Mapping[bytes, Path],
    splits: Mapping[bytes, str],
    staging: Staging,
    listing: Listing,
    *,
    wanted: Wanted,
) -> Source:
    """The source that a set of parquet shards is.

    A column of a parquet file can only be read a row group at a time, so the images are laid down once in
    `staging`, in bounded memory, where they can be read in shuffled order. Shards of splits that are not `wanted` are
    passed over where the class names are in the metadata of those that are.

    Args:
        name: of the source, for people.
        files: the shards by their names within the source.
        splits: the split of each.
        staging: where images are laid down.
        listing: takes the account of rows and what else is there.
        wanted: splits that will be packed.

    Raises:
        UsageError: a file has no column of images or labels, or the files' classes differ.
        DamagedDataError: a file is torn.
        MissingDependencyError: pyarrow is not installed.
    """
    asked = [file for file in files if wanted.takes(splits[file])]
    shards = [_Shard(files[file], staging, listing.account) for file in asked]
    if len(asked) < len(files) and not (shards and all(shard.class_names for shard in shards)):
        asked = list(files)
        shards = [_Shard(files[file], staging, listing.account) for file in asked]
    for file in files:
        if file not in asked:
            listing.skip(file, f"parquet files of split {splits[file]}, which is not asked for")
    classes, labels = _classes(name, shards, listing.account)
    lists: dict[str, ImageList] = {}
    number = 0
    labelled: dict[str, bool] = {}
    for file, shard in zip(asked, shards, strict=True):
        split = splits[file]
        container = listing.container(shard.images)
        images = lists.setdefault(split, ImageList())
        for offset, size, text, key in zip(
            *(shard.rows[c].tolist() for c in ("offset", "size", "label", "key")), strict=True
        ):
            listing.add_image(b"", container=container, method=RANGE, offset=offset, stored=size, size=size)
            if labelled.setdefault(split, text != b"") != (text != b""):
                raise UsageError(f"{shard.path} has images with and without a label in one split: split them")
            check_utf8(key, f"an image in {shard.path.name}")
            folder = classes.names[labels[text]][0].encode() + b"/" if text else b""
            images.add(number, labels[text] if text else -1, folder + key)
            number += 1
    table = listing.table()
    return Source(
        name=name, format="parquet", classes=classes.names,
        splits={s: lists[s].split(table, class_index=None, labelled=labelled[s]) for s in in_order(lists)},
        containers=tuple(listing.containers), account=listing.close(),
    )  # fmt: skip


def _classes(name: str, shards: Sequence[_Shard], account: Account) -> tuple[Classes, dict[bytes, int]]:
    """(the classes, label by the text that rows have it as)."""
    named = [shard for shard in shards if shard.class_names]
    names = named[0].class_names if named else []
    for shard in named:
        if shard.class_names != names:
            raise UsageError(f"{shard.path} has other class names than {named[0].path}: pack one data set at a time")
    used = {bytes(text) for shard in shards for text in np.unique(shard.rows["label"]) if text}
    if not names:
        classes = order_classes(used, name, account)
        return classes, {text: classes.index[text] for text in used}
    texts = [text.encode() for text in names]
    refuse_equal_names(texts, name)
    if len(set(texts)) < len(texts):
        raise UsageError(f"{name} has a list of classes that names one twice: mend its metadata")
    if not all(text.isdigit() for text in used):
        strange = sorted(used - set(texts))
        if strange:
            raise UsageError(
                f"{name} has label {shown(strange[0])}, which is not among its class names: mend its metadata"
            )
        numbers = {text: texts.index(text) for text in used}
    else:
        numbers = {text: int(text) for text in used}
    if max(numbers.values(), default=-1) >= len(names):
        raise UsageError(
            f"{name} has label {max(numbers.values())} and {len(names)} class names: its metadata is wrong"
        )
    order = sorted(range(len(names)), key=lambda i: names[i])
    if not all(WNID.match(text) for text in texts):
        order = list(range(len(names)))
    place = {old: new for new, old in enumerate(order)}
    pairs = tuple((names[i], names[i]) for i in order)
    return Classes(names=pairs, index={}), {text: place[number] for text, number in numbers.items()}


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError(
            "parquet files need pyarrow: install it with `pip install 'alexnet-fast[parquet]'`"
        ) from None
    what = describe_file(path)
    if what is not None:
        raise UsageError(f"{path} is {what}")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> Exception:
    """What to raise of an error of pyarrow's; the system's own as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        return error  # pyarrow has some of what is damaged as an OSError too, without a number
    text = str(error).splitlines()[0]
    return DamagedDataError(f"{path} cannot be read as parquet ({text}): fetch it again")


class _Shard:
    """One parquet file: its class names, where its images were laid down, and a row for each."""

    def __init__(self, path: Path, staging: Staging, account: Account) -> None:
        self.path = path
        self._account = account
        self._file = _open(path)
        import pyarrow as pa

        try:
            self.class_names: list[str] = []
            self._image, self._label = self._columns(self._file.schema_arrow)
            staging.note(f"reading {path.name}")
            rows: list[Any] = []
            # The rows come last: where they are, the images are whole.
            staging.forget(path, ".images", unless=".rows2.npy")
            self.images = staging.stamped(path, ".images", lambda file: self._lay_down(file, rows))
            table = staging.stamped(path, ".rows2.npy", lambda file: np.save(file, self._table(rows)))
            self.rows = np.load(table, allow_pickle=False)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    def _columns(self, schema: Any) -> tuple[str, str | None]:
        """(column of images, column of labels), by the features that datasets notes, else by type and name."""
        features = _features(schema.metadata or {})
        image = next((n for n, f in features.items() if f.get("_type") == "Image" and n in schema.names), None)
        image = image or next((n for n in _IMAGE_COLUMNS if n in schema.names), None)
        if image is None:
            raise UsageError(
                f"{self.path} has no column of images (image or img; it has {', '.join(schema.names)}): "
                "name it so, or give another SOURCE"
            )
        label = self._label_column(schema, features, image)
        if label is not None and features.get(label, {}).get("_type") == "ClassLabel":
            self.class_names = [str(n).encode(errors="replace").decode() for n in features[label].get("names") or []]
        return image, label

    def _label_column(self, schema: Any, features: Mapping[str, Mapping[str, Any]], image: str) -> str | None:
        noted = [n for n, f in features.items() if f.get("_type") == "ClassLabel" and n in schema.names]
        known = [n for n in _LABEL_COLUMNS if n in schema.names and n != image]
        if len(noted) == 1:
            chosen = noted[0]
        elif known:
            chosen = known[0]
        else:
            others = noted or [n for n in schema.names if n != image and _LABEL_WORDS.search(n)]
            if others:
                raise UsageError(
                    f"{self.path} has no column that is called {', '.join(_LABEL_COLUMNS)}; it has "
                    f"{', '.join(schema.names)}: call the one with the classes label"
                )
            rest = [n for n in schema.names if n != image]
            if rest:
                self._account.note(f"no labels: the columns beside {image} are {', '.join(rest)}")
            return None
        beside = [n for n in dict.fromkeys((*noted, *known)) if n != chosen]
        if beside:
            self._account.note(f"labels are from column {chosen} (there is {', '.join(beside)} as well)")
        return chosen

    def _lay_down(self, file: IO[bytes], rows: list[Any]) -> None:
        offset = 0
        number = 0
        columns = [self._image] + ([self._label] if self._label else [])
        for batch in self._file.iter_batches(batch_size=self._batch_rows(), columns=columns):
            if batch.nbytes > LARGEST_FILE:
                raise DamagedDataError(
                    f"row {number} of {self.path} has {batch.nbytes:,} bytes, more than {LARGEST_FILE:,}: nothing was "
                    "packed from it"
                )
            images = batch.column(self._image).to_pylist()
            labels = batch.column(self._label).to_pylist() if self._label else [-1] * len(images)
            for image, label in zip(images, labels, strict=True):
                data, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
                if not isinstance(data, bytes):
                    raise UsageError(
                        f"row {number} of {self.path} holds no image's bytes (a path at most): "
                        "embed the images in the file"
                    )
                text = _label_text(label)
                if text is None:
                    raise UsageError(
                        f"row {number} of {self.path} has label {str(label)[:60]!r}, which is not one class: give each "
                        "image the number or the name of its class"
                    )
                base = (path or f"{self.path.stem}-{number:08d}").rpartition("/")[2].encode(errors="replace")
                rows.append((offset, len(data), text, base))
                check_growth(self.path, offset + len(data))
                file.write(data)
                offset += len(data)
                number += 1

    def _batch_rows(self) -> int:
        """Rows to ask for at once: each may be as long as its row group, and all of them one value of a dictionary."""
        metadata = self._file.metadata
        largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(largest, 1)))

    @staticmethod
    def _table(rows: list[Any]) -> np.ndarray[Any, np.dtype[np.void]]:
        widths = [max((len(row[column]) for row in rows), default=1) or 1 for column in (2, 3)]
        fields = [("offset", "<i8"), ("size", "<i8"), ("label", f"S{widths[0]}"), ("key", f"S{widths[1]}")]
        return np.array(rows, dtype=fields)


def _label_text(value: Any) -> bytes | None:
    """A label as text: a number (1, 1.0) or a name; empty for no label (null, -1); None where it is not one class."""
    if isinstance(value, (list, np.ndarray)) and len(value) == 1:
        value = value[0]
    if value is None:
        return b""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    if isinstance(value, int):
        return (str(value).encode() if value < MOST_CLASSES else None) if value >= 0 else b""
    text = value.strip().encode(errors="replace")
    return text if text and b"\0" not in text else None


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
