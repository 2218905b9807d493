"""Files that say the labels of images, and files that say the names of classes: read through csv, in one place.

A file of labels has a line for each image: its name and its class, parted by tabs, commas, semicolons or spaces, quoted
or not, with a header or without, in UTF-8 or UTF-16. What parts the columns, and which column names the image, is
found by looking for the names of the images that are there.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..errors import DamagedDataError, UsageError
from .names import composed, shown
from .splits import split_in

WNID = re.compile(rb"n\d{8}")
_LABELS = re.compile(
    rb"(?:(?P<split>[a-z_-]+?)[_.-]?)??(?P<what>annotations?|labels?|solution|gt|ground_?truth|metadata)?\.(?:txt|csv|tsv)"
)
_FIRST = (b"val_annotations.txt", b"LOC_val_solution.csv", b"val_labels.txt", b"val_labels.csv")
_CLASS_NAMES = (b"words.txt", b"LOC_synset_mapping.txt", b"Labels.json", b"imagenet_class_index.json")
CLASS_LISTS = (b"classes.txt", b"synsets.txt", b"wnids.txt", b"classnames.txt", b"class_names.txt")
_IMAGE_COLUMNS = (
    "image", "imageid", "image_id", "filename", "file_name", "file", "image_name", "img", "path", "image_path",
    "filepath", "id", "name",
)  # fmt: skip
_LABEL_COLUMNS = (
    "label", "class", "wnid", "synset", "category", "target", "predictionstring", "labels", "class_name", "label_name",
    "classname", "category_name", "breed", "species", "class_id", "category_id", "label_id", "y",
)  # fmt: skip
_LOOKED_AT = 1000  # lines that tell how a file is parted
_PARTED_BY = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}


def may_hold_labels(base: bytes) -> bool:
    """Whether a file's base name is one that labels or names of classes are looked for in."""
    return base in _FIRST or base in _CLASS_NAMES or base in CLASS_LISTS or _label_file(base) is not None


def _label_file(base: bytes) -> str | None:
    """The split that a file of labels is for, '' for any; None where the name is of no such file."""
    if base in _FIRST:
        return "val"
    found = _LABELS.fullmatch(base.lower())
    if found is None:
        return None
    split = split_in(found["split"] + b".x") if found["split"] else None
    if found["split"] and split is None:
        return None
    return split or ("" if found["what"] else None)


def is_of_one_split(name: bytes) -> bool:
    """Whether the name of a file of labels says whose they are."""
    return bool(_label_file(name[name.rfind(b"/") + 1 :]))


def label_files(names: Iterable[bytes], split: str, *, only: bool) -> list[bytes]:
    """Those of `names` that hold the labels of a split, the likeliest first: by its name, then the nearest to the top.

    Args:
        names: of files, with their folders.
        split: whose labels.
        only: whether there is no other split, so that labels of whatever name are its.
    """
    found = []
    for name in names:
        base = name[name.rfind(b"/") + 1 :]
        for_split = _label_file(base)
        # A test.txt or test.csv gives every image label 0, or none: only a file that says that it has labels counts.
        if split == "test" and for_split == "test" and not _LABELS.fullmatch(base.lower())["what"]:  # type: ignore[index]
            continue
        if for_split == split or (for_split is not None and (for_split == "" or (only and base in _FIRST))):
            found.append((base not in _FIRST, for_split == "", name.count(b"/"), name))
    return [name for *_, name in sorted(found)]


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """A file of labels, read.

    Attributes:
        labels: class by the image's name as the file has it, without folders.
        column: which column the classes are from, for people.
    """

    labels: Mapping[bytes, bytes]
    column: str

    def label(self, image: bytes) -> bytes | None:
        """The class of an image by its base name, with or without its ending."""
        key = composed(image)
        return self.labels.get(key) or self.labels.get(key.rpartition(b".")[0])

    def without_image(self, images: Iterable[bytes]) -> list[bytes]:
        """The names in the file that none of the images has."""
        there = set()
        for image in images:
            key = composed(image)
            there |= {key, key.rpartition(b".")[0]}
        return [name for name in self.labels if name not in there]


def read_labels(text: bytes, name: str, images: Collection[bytes]) -> LabelTable:
    """Read a file of labels of `images` (base names).

    Raises:
        DamagedDataError: it is no text, a line is short, or an image has two classes.
        UsageError: it names none of the images.
    """
    content = decode_text(text, name)
    known = set()
    for image in images:
        key = composed(image).decode(errors="surrogateescape")
        known |= {key, key.rpartition(".")[0] or key}
    delimiter, file_column = _parted(content, known)
    rows = _rows(content, delimiter, name)
    header = _header(rows, file_column, known)
    column = _label_column(header, file_column, max((len(row) for _, row in rows[:_LOOKED_AT]), default=0), name)
    labels: dict[bytes, bytes] = {}
    for number, row in rows[1 if header else 0 :]:
        if len(row) <= max(column, file_column) or not row[file_column].strip():
            raise DamagedDataError(f"line {number} of {name} names no file and class: mend it, or fetch it again")
        file = _base_name(row[file_column]).encode(errors="surrogateescape")
        label = _label(row[column])
        if not label or labels.setdefault(composed(file), label) != label:
            raise DamagedDataError(
                f"line {number} of {name} gives {shown(file)} no class or a second one: mend it, or fetch it again"
            )
    called = f"column {column + 1}" + (f" ({header[column].strip()})" if header else "")
    return LabelTable(labels=labels, column=called)


def _label(text: str) -> bytes:
    """A class as a field has it; of a wnid with more behind it (Kaggle's boxes, words), the wnid."""
    label = text.strip()
    first, _, rest = label.partition(" ")
    if rest and WNID.fullmatch(first.encode(errors="replace")):
        label = first
    number = re.fullmatch(r"(\d+)\.0*", label)
    return composed((number[1] if number else label).encode(errors="surrogateescape"))


def decode_text(text: bytes, name: str) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        DamagedDataError: it is neither.
    """
    encoding = "utf-8-sig"
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in text[:64]:
        encoding = "utf-16-le" if text[1:2] == b"\0" else "utf-16-be"
    try:
        content = text.decode(encoding)
    except UnicodeDecodeError:
        raise DamagedDataError(f"{name} is neither UTF-8 nor UTF-16 text: save it as UTF-8") from None
    if "\0" in content:
        raise DamagedDataError(f"{name} is no text: fetch it again")
    return content


def _parted(content: str, known: Collection[str]) -> tuple[str, int]:
    """(what parts the columns, which column names the images), by where most known names are.

    Raises nothing: where none is known, what most lines hold.
    """
    lines = [line for line in content.splitlines() if line.strip()][:_LOOKED_AT]
    best = (
        0,
        -1,
        "\t" if any("\t" in line for line in lines) else "," if any("," in line for line in lines) else " ",
        0,
    )
    for rank, delimiter in enumerate(_PARTED_BY):
        hits: dict[int, int] = {}
        for line in lines:
            for column, field in enumerate(_fields(line, delimiter)):
                if _base_name(field) in known:
                    hits[column] = hits.get(column, 0) + 1
                    break
        for column, count in hits.items():
            if (count, -rank) > best[:2] and count > 0:
                best = (count, -rank, delimiter, column)
    return best[2], best[3]


def _fields(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return _two_words(line)
    try:
        row = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
    return row if len(row) > 1 else []


def _two_words(line: str) -> list[str]:
    """(file, the rest) of a line parted by spaces; the file's name ends with the first word that has an ending."""
    found = re.match(r"\s*(?:\"([^\"]+)\"|(\S.*?\.\w{2,5}|\S+))\s+(.*\S)\s*$", line)
    return [found[1] or found[2], found[3]] if found else [line.strip()]


def _rows(content: str, delimiter: str, name: str) -> list[tuple[int, list[str]]]:
    """(number of its line, fields) of each line that is not empty."""
    if delimiter == " ":
        return [(n, _two_words(line)) for n, line in enumerate(content.splitlines(), 1) if line.strip()]
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise DamagedDataError(f"line {reader.line_num} of {name} cannot be read ({error}): mend it") from None


def _base_name(field: str) -> str:
    return field.strip().replace("\\", "/").rpartition("/")[2]


def _header(rows: list[tuple[int, list[str]]], file_column: int, known: Collection[str]) -> list[str]:
    """The first line's fields where it is a header: it names no image, and its fields are names of columns."""
    if not rows:
        return []
    first = rows[0][1]
    if file_column >= len(first) or _base_name(first[file_column]) in known:
        return []
    plain = [field.strip().lower().replace(" ", "_") for field in first]
    is_header = plain[file_column] in _IMAGE_COLUMNS or any(field in _LABEL_COLUMNS for field in plain)
    return first if is_header and "." not in first[file_column] else []


def _label_column(header: list[str], file_column: int, columns: int, name: str) -> int:
    """Which column has the classes: the one that the header calls so, else the next one.

    Raises:
        UsageError: a header calls none so, and there are several others: a column for each class, perhaps.
    """
    plain = [field.strip().lower().replace(" ", "_") for field in header]
    for wanted in _LABEL_COLUMNS:
        if wanted in plain and plain.index(wanted) != file_column:
            return plain.index(wanted)
    if header and columns > 2:
        raise UsageError(
            f"{name} has columns {', '.join(field.strip() for field in header)[:200]}, and none of them is called "
            "label, class or the like: keep those of the image and its class, or call the latter label"
        )
    return next((c for c in range(columns) if c != file_column), file_column + 1)


def class_names(texts: Mapping[bytes, bytes], classes: Collection[bytes]) -> dict[bytes, str]:
    """Readable names of `classes` from words.txt (tab), LOC_synset_mapping.txt (space) or a JSON file.

    Args:
        texts: contents of files, by base name.
        classes: whose names are wanted.
    """
    wanted = {name.decode(errors="surrogateescape"): name for name in classes}
    names = {}
    for file in _CLASS_NAMES:
        if file not in texts:
            continue
        for wnid, words in _named(decode_text(texts[file], shown(file)), file):
            if wnid in wanted and words.strip():
                names[wanted[wnid]] = words.strip()
    return names


def _named(content: str, file: bytes) -> Iterable[tuple[str, str]]:
    if file.endswith(b".json"):
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            raise DamagedDataError(f"{shown(file)} is not JSON: fetch it again, or remove it") from None
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, str):
                yield key, value
            elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value):
                yield value[0], value[1]
        return
    for line in content.splitlines():
        wnid, found, words = line.partition("\t")
        if not found:
            wnid, _, words = line.strip().partition(" ")
        yield wnid, words


def listed_classes(text: bytes, name: str) -> list[bytes]:
    """The lines of a list of classes; line n is label n."""
    return [composed(line.strip().encode()) for line in decode_text(text, name).splitlines() if line.strip()]


def refuse_no_match(table: LabelTable, name: str, images: Collection[bytes], splits: str) -> None:
    """Refuse a file of labels that speaks of other images altogether.

    Raises:
        UsageError: it names none of them.
    """
    if images and not any(table.label(image) for image in images):
        named = next(iter(table.labels), b"nothing")
        raise UsageError(
            f"{name} has no label for {shown(min(images))} of split {splits}, nor for any other image (it names "
            f"{shown(named)}): give the one that belongs to these images"
        )
