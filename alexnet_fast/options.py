"""An option, declared once: a field of a config with its default, its kind of values and its line of help.

    lr: float | None = option(None, NUMBER_ABOVE_0, "Peak learning rate.", metavar="RATE")

From this the config checks its values (`check_options`), the command line makes its option (`alexnet_fast.cli`), and a
run writes the command that resumes it (`command_words`) and tells whether a resumed run is the same one (`same_run`).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from .errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
_MOST_BYTES = 2.0**60
_LONGEST_VALUE = 1000
_MOST_DIGITS = 30  # more are a slip of the keyboard, and int() takes no more than 4,300
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Kind:
    """The values that an option takes.

    Attributes:
        expected: what they are, in words: 'a whole number from 1 up'.
        read: brings a value from a Python caller, or from `parse`, to its one form; raises ValueError for others.
        metavar: stands for a value in the help.
        parse: turns a word of the command line into what `read` takes; None: the command line's parser does, by `type`.
        type: of the command line's parser.
        words: values that a shell completes.
        write: the words after the option on a command line.
        none: None is a value, not only the default.
    """

    expected: str
    read: Callable[[Any], Any]
    metavar: str
    parse: Callable[[Any], Any] | None = None
    type: Any = str
    words: tuple[str, ...] = ()
    write: Callable[[Any], str] = str
    none: bool = False


@dataclass(frozen=True)
class Option:
    """What a field of a config says of itself besides name, type and default.

    Attributes:
        kind: its values.
        help: its line in the command's help; empty: the command line does not have it.
        flag: its name on the command line.
        metavar: stands for a value in the help.
        again: the command that resumes a run repeats it.
        same_run: a run with another value is another run.
        argument: it is no option but an argument of the command, told by its place.
    """

    kind: Kind
    help: str
    flag: str | None
    metavar: str
    again: bool
    same_run: bool
    argument: bool


def declared(
    kind: Kind,
    help: str = "",
    *,
    flag: str | None = None,
    metavar: str | None = None,
    again: bool = True,
    same_run: bool = False,
    argument: bool = False,
) -> dict[str, Option]:
    """The metadata of a field without a default; see `Option`."""
    return {"option": Option(kind, help, flag, metavar or kind.metavar, again, same_run, argument)}


def option(default: Any, kind: Kind, help: str = "", **more: Any) -> Any:
    """A field of a config that is an option; see `Option` for `more`."""
    metadata = declared(kind, help, **more)
    if isinstance(default, (dict, list)):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def options_of(config: Any) -> Iterator[tuple[Field[Any], Option]]:
    """The options among the fields of a config or of its class."""
    for entry in fields(config):
        if "option" in entry.metadata:
            yield entry, entry.metadata["option"]


def takes_options(config: type) -> Callable[[Function], Function]:
    """Shows the options of a config in the signature of a function that takes them as ``**options``."""

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        named = {name: one for name, one in own.parameters.items() if one.kind is not one.VAR_KEYWORD}
        options = [
            inspect.Parameter(
                entry.name, inspect.Parameter.KEYWORD_ONLY, default=default_of(entry), annotation=entry.type
            )
            for entry, _ in options_of(config)
            if entry.name not in named
        ]
        function.__signature__ = own.replace(parameters=[*named.values(), *options])  # type: ignore[attr-defined]
        return function

    return decorate


def check_options(config: Any) -> None:
    """Bring each option of a frozen config to its one form; for its ``__post_init__``.

    Raises:
        UsageError: a value is none that the option takes; the text says what it takes.
    """
    for entry, known in options_of(config):
        value = getattr(config, entry.name)
        if value is None and (known.kind.none or default_of(entry) is None):
            continue
        object.__setattr__(config, entry.name, read_value(entry.name, known.kind, value))


def read_value(name: str, kind: Kind, value: Any, *, word: bool = False) -> Any:
    """`value` in the one form that values of `kind` have.

    Args:
        name: of the option, for the error: a caller of Python knows batch_size, the command line --batch-size.
        word: it comes from the command line.

    Raises:
        UsageError: it is no value of that kind.
    """
    try:
        return kind.read(kind.parse(value) if word and kind.parse is not None else value)
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError):
        raise UsageError(f"{name} must be {kind.expected}, got {_short(value)}") from None


def default_of(entry: Field[Any]) -> Any:
    """The default of a field; `MISSING` where it has none."""
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def flag_of(entry: Field[Any]) -> str:
    """The option's name on the command line."""
    known: Option = entry.metadata["option"]
    return known.flag or "--" + entry.name.replace("_", "-")


def shown_name(entry: Field[Any]) -> str:
    """What the command line calls the option or the argument: --batch-size, DATASET."""
    known: Option = entry.metadata["option"]
    return known.metavar if known.argument else flag_of(entry)


def command_words(config: Any) -> list[str]:
    """The options of a command line that ask for what `config` holds, without those left at their defaults."""
    words = []
    for entry, known in options_of(config):
        value = getattr(config, entry.name)
        if not known.help or known.argument or not known.again or value == default_of(entry):
            continue
        if known.kind is SETTINGS:
            for name, setting in value.items():
                words += [flag_of(entry), f"{name}={word(setting)}"]
        elif known.kind is SWITCH:
            words.append(flag_of(entry))
        else:
            words += [flag_of(entry), known.kind.write(value)]
    return words


def word(value: object) -> str:
    """A value as the command line and a sentence write it."""
    return value if isinstance(value, str) else json.dumps(value)


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of values


def _fits(fits: bool, value: Any) -> Any:
    if not fits:
        raise ValueError
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_or_word(text: Any) -> Any:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) <= _MOST_DIGITS else text


def one_of(*words: str) -> Kind:
    """One of some words."""
    return Kind(f"one of {', '.join(words)}", lambda value: _fits(value in words, value), "|".join(words), words=words)


def whole(least: int, most: int | None = None) -> Kind:
    """A whole number from `least` up, or to `most`."""
    end = "up" if most is None else "to 2^63-1" if most == 2**63 - 1 else f"to {most}"
    return Kind(
        f"a whole number from {least} {end}",
        lambda value: _fits(_is_int(value) and least <= value and (most is None or value <= most), value),
        "N",
        type=int,
    )


def auto_or(kind: Kind) -> Kind:
    """The word auto, or a value of `kind`."""
    return Kind(
        f"auto or {kind.expected}",
        lambda value: value if value == "auto" else kind.read(value),
        f"auto|{kind.metavar}",
        parse=lambda word: word if word == "auto" else (kind.parse or _number_or_word)(word),
        words=("auto",),
        write=lambda value: value if value == "auto" else kind.write(value),
    )


def several(kind: Kind, expected: str, metavar: str) -> Kind:
    """Some values of `kind`, separated by commas on the command line; each is kept once."""

    def read(values: Any) -> tuple[Any, ...]:
        found = tuple(dict.fromkeys(kind.read(value) for value in values))
        return _fits(bool(found), found)  # type: ignore[no-any-return]

    def parse(text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise ValueError
        return [_number_or_word(part) for part in parts]

    return Kind(expected, read, metavar, parse=parse, write=lambda values: ",".join(map(str, values)))


def on_off(*, auto: Any) -> Kind:
    """A bool, or the words on, off and auto; `auto` is the value for that word."""
    values = {"on": True, "off": False, "auto": auto}
    return Kind(
        "on, off or auto",
        lambda value: value if isinstance(value, bool) else values[value],
        "auto|on|off",
        words=("auto", "on", "off"),
        write=lambda value: value if value == "auto" else "on" if value else "off",
    )


def _above_0(value: Any) -> Any:
    return _fits(_is_number(value) and 0 < value < float("inf"), value)


def _interval(value: Any) -> int | str | None:
    value = _number_or_word(value)
    if value is None or value == "epoch":
        return None
    if _is_int(value):
        return _fits(value >= 1, value)  # type: ignore[no-any-return]
    text = value.strip().lower() if isinstance(value, str) else ""
    fits = text[-1:] in _UNIT_SECONDS and 0 < float(text[:-1]) < float("inf")
    return _fits(fits, text)  # type: ignore[no-any-return]


def interval_seconds(every: str) -> float:
    """The seconds of an `INTERVAL` that is a time."""
    return float(every[:-1]) * _UNIT_SECONDS[every[-1]]


SWITCH = Kind("true or false", lambda value: _fits(isinstance(value, bool), value), "", type=bool)
TEXT = Kind("a text", lambda value: _fits(isinstance(value, str), value), "TEXT")
PLACE = Kind("a path", Path, "FILE", type=Path)
LOCATION = Kind("a path or a URL", lambda place: place if is_url(place) else Path(place), "FOLDER|URL")
SIZE = Kind(
    "a number of bytes, or a size such as 1GiB", lambda size: _fits(_is_int(size) and size > 0, size), "SIZE",
    parse=lambda text: parse_size(text), write=lambda size: size_words(size),
)  # fmt: skip
NUMBER_ABOVE_0 = Kind("a positive number", _above_0, "N", type=float)
UP_TO_1 = Kind(
    "a number from 0 to 1",
    lambda value: _fits(isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1, value),
    "X", type=float,
)  # fmt: skip
INTERVAL = Kind(
    "a number of steps, a time such as 90s, 10m or 1h, or epoch", _interval, "STEPS|TIME|epoch",
    parse=str, write=lambda every: "epoch" if every is None else str(every), none=True,
)  # fmt: skip
SETTINGS = Kind(
    "a mapping of names to values", dict, "NAME=VALUE", parse=lambda pairs: parse_overrides(pairs), type=list[str]
)  # fmt: skip


_URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)", re.IGNORECASE)


def is_url(place: object) -> bool:
    """Whether it is a URL (s3://, gs://, https://, hf://, ...) and not a path."""
    return isinstance(place, str) and _URL.match(place) is not None


def size_words(size: int) -> str:
    """A number of bytes as `parse_size` reads it: 50GiB, 1048577."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return str(size)


def parse_size(text: str) -> int:
    """Bytes in '1GiB', '64MiB', '500MB', '1048576'; ValueError for what is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*", text)
    if not match or not 0 < float(match[1]) < _MOST_BYTES:
        raise ValueError
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """{'name': value} of each 'NAME=VALUE'; a value that is not JSON is text."""
    overrides = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE: got {pair[:40]!r}")
        if len(text) > _LONGEST_VALUE:
            raise UsageError(f"--set takes a value of up to {_LONGEST_VALUE} characters: {name[:40]} has {len(text):,}")
        try:
            overrides[name.replace("-", "_")] = json.loads(text)
        except (ValueError, RecursionError):
            overrides[name.replace("-", "_")] = text
    return overrides


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
