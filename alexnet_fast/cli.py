"""The command line: parse, build a config, call one function, print. Nothing imports this module.

Heavy imports stay inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import inspect as signatures
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .config import BACKENDS, DEVICES, WORKERS, BenchConfig, TrainConfig
from .errors import AlexNetFastError, UsageError
from .options import SWITCH, Option, default_of, flag_of, name_of, options_of, parse_size, read_value
from .version import __version__

Config = TypeVar("Config")

app = typer.Typer(
    name="alexnet-fast",
    help=(
        "Train AlexNet on ImageNet, Tiny ImageNet or your own images: pack the archive, measure the loader, train, "
        "evaluate, predict."
    ),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _completes(words: Sequence[str]) -> Callable[[str], list[str]] | None:
    return (lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None


def _one_of(option: str, values: Sequence[str], help: str) -> Any:
    """An option that takes one of `values`, which the shell completes; whether it was one is the library's to say."""
    return typer.Option(option, metavar="|".join(values), help=help, autocompletion=_completes(values))


DatasetArg = Annotated[
    str, typer.Argument(metavar="DATASET", help="Folder made by `alexnet-fast pack`, or the URL of one.")
]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, checkpoint, or an AlexNet's weights.")]
DeviceOption = Annotated[str, _one_of("--device", DEVICES, "Where to compute.")]


def _from_config(kind: type[Config]) -> Callable[[Callable[[Config], None]], Callable[..., None]]:
    """Makes a command of a function that takes a config of `kind`: DATASET, and an option for each that it declares."""
    entries = {entry.name: (entry, known) for entry, known in options_of(kind) if known.help}

    def decorate(run: Callable[[Config], None]) -> Callable[..., None]:
        def command(dataset: str, **words: Any) -> None:
            values = {
                name: read_value(name_of(entry), known.kind, words[name], word=True)
                for name, (entry, known) in entries.items()
                if words[name] is not None
            }
            run(kind(dataset=dataset, **values))  # type: ignore[call-arg]

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        types = {"dataset": DatasetArg} | {name: _typer_type(*entry) for name, entry in entries.items()}
        parameter, by_keyword = signatures.Parameter, signatures.Parameter.KEYWORD_ONLY
        command.__signature__ = signatures.Signature(  # type: ignore[attr-defined]
            [parameter("dataset", parameter.POSITIONAL_OR_KEYWORD, annotation=DatasetArg)]
            + [
                parameter(name, by_keyword, annotation=types[name], default=_typer_default(*entry))
                for name, entry in entries.items()
            ]
        )
        command.__annotations__ = types
        return command

    return decorate


def _typer_type(entry: Field[Any], known: Option) -> Any:
    flag, kind = flag_of(entry), known.kind
    if kind is SWITCH:
        flag = f"{flag}/--no-{flag[2:]}" if entry.default else flag
        return Annotated[bool, typer.Option(flag, help=known.help)]
    option = typer.Option(flag, metavar=known.metavar, help=known.help, autocompletion=_completes(kind.words))
    return Annotated[kind.type | None if _typer_default(entry, known) is None else kind.type, option]


def _typer_default(entry: Field[Any], known: Option) -> Any:
    default = default_of(entry)
    if default is None or default == {}:
        return None
    return known.kind.write(default) if known.kind.type is str else default


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"alexnet-fast {__version__}")
        raise typer.Exit


@app.command()
def pack(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, zip, tar or parquet file of images, or a URL of one.")
    ],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Folder to write, made if missing; or a URL.")],
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="NAME[=FOLDER]",
            help="Pack only this split, or take FOLDER of SOURCE for it; may be repeated.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="FILE|N", help="Pack only the classes that FILE lists, or the first N."),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="KIND",
            help="ilsvrc2012, kaggle, tiny-imagenet, imagefolder, webdataset or parquet; auto looks at SOURCE.",
        ),
    ] = "auto",
    shard_bytes: Annotated[str, typer.Option("--shard-bytes", metavar="SIZE", help="Where to cut shards.")] = "1GiB",
    resize_shorter: Annotated[
        int | None, typer.Option("--resize-shorter", metavar="N", min=1, help="Shrink the shorter side to N pixels.")
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", metavar="N", min=1, max=100, help="Of what is encoded anew, as JPEG's.")
    ] = 95,
    workers: Annotated[str, typer.Option("--workers", metavar="auto|N", help="Worker processes.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the shuffle.")] = 0,
    on_bad_image: Annotated[
        str, _one_of("--on-bad-image", ("error", "skip"), "What to do with what cannot be decoded.")
    ] = "error",
    on_missing: Annotated[
        str,
        _one_of(
            "--on-missing", ("error", "skip"), "What to do with images without a label, and labels without an image."
        ),
    ] = "error",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Images per split, for trials.")
    ] = None,
    engine: Annotated[str, _one_of("--engine", ("local", "ray"), "Where the shards are written.")] = "local",
    no_seek_index: Annotated[
        bool, typer.Option("--no-seek-index", help="Leave out the files by which crops are decoded sooner.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set that is there.")] = False,
) -> None:
    """Write the images of SOURCE into LMDB shards in DATASET.

    Example: alexnet-fast pack tiny-imagenet-200.zip data/tiny
    """
    from .packing import describe_pack
    from .packing import pack as run
    from .system import progress_bar

    with progress_bar("packing") as progress:
        info = run(
            source, dataset, splits=tuple(split) if split else None, classes=classes, format=format,
            shard_bytes=parse_size(shard_bytes), resize_shorter=resize_shorter, quality=quality,
            workers=_workers(workers), seed=seed, on_bad_image=on_bad_image, on_missing=on_missing, limit=limit,
            engine=engine, seek_index=not no_seek_index, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    typer.echo(describe_pack(info, dataset, seek_index=not no_seek_index))


@app.command()
def verify(
    dataset: DatasetArg,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image as well.")] = False,
    workers: Annotated[str, typer.Option("--workers", metavar="auto|N", help="Worker processes.")] = "auto",
) -> None:
    """Check every record of DATASET against its index.

    Exits with 1 and names each bad record where something is wrong.

    Example: alexnet-fast verify data/tiny
    """
    from .dataset import verify as run
    from .system import progress_bar

    with progress_bar("verifying") as progress:
        result = run(dataset, decode=decode, workers=_workers(workers), progress=progress)
    typer.echo(result.summary(), err=not result.ok)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def inspect(
    dataset: DatasetArg,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Of the grid; train if not given.")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", metavar="FILE", help="Write a PNG of labelled images here.")
    ] = None,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Show what the training loader feeds the network.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Which images the grid shows.")] = 0,
    image_size: Annotated[int, typer.Option("--image-size", metavar="N", help="Of --augmented, pixels.")] = 224,
    backend: Annotated[str, _one_of("--backend", BACKENDS, "Of --augmented.")] = "auto",
) -> None:
    """Say what DATASET holds, and draw a grid of its images.

    Splits, sizes, class balance, and what pack changed of the images.

    Example: alexnet-fast inspect data/tiny --grid tiny.png --augmented
    """
    from .inspection import inspect as run

    typer.echo(
        run(
            dataset, split=split, grid=grid, augmented=augmented, seed=seed, image_size=image_size, backend=backend,
        )
    )  # fmt: skip


@app.command()
@_from_config(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train an AlexNet on DATASET.

    Weights, metrics and curves go into a run folder; a run that was ended goes on with --resume.

    Example: alexnet-fast train data/tiny --run-dir runs/tiny
    """
    from .training import train as run

    result = run(config)
    if result is not None:  # ranks other than 0 have nothing to say
        typer.echo(result.closing_lines())


@app.command("bench-loader")
@_from_config(BenchConfig)
def bench_loader(config: BenchConfig) -> None:
    """Measure how fast each loader setting reads DATASET, and why.

    Says which setting is best here, whether more workers help, and what holds the others up.

    Example: alexnet-fast bench-loader data/tiny --image-size 64 --out bench
    """
    from .bench import bench_loader as run

    report = run(config)
    terminal = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None
    typer.echo(report.closing_lines(terminal))


@app.command()
def evaluate(
    run: RunArg,
    dataset: DatasetArg,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Must have labels.")] = "val",
    tta: Annotated[str, _one_of("--tta", ("none", "flip", "ten-crop"), "Average over views.")] = "none",
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write an HTML report here.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="At a time.")] = 128,
    backend: Annotated[str, _one_of("--backend", BACKENDS, "Loader.")] = "auto",
    num_workers: Annotated[str, typer.Option("--num-workers", metavar="auto|N", help="That decode.")] = "auto",
    device: DeviceOption = "auto",
    records: Annotated[
        Path | None,
        typer.Option("--records", metavar="FILE", help="Only the records of these numbers: a line each, or .npy."),
    ] = None,
    share: Annotated[float | None, typer.Option("--share", metavar="X", help="Only this share of each class.")] = None,
) -> None:
    """Top-1 and top-5 accuracy of RUN on a split of DATASET.

    Example: alexnet-fast evaluate runs/tiny data/tiny --tta flip
    """
    from .system import check_writable

    check_writable(json, "--json")
    from .evaluation import evaluate as evaluate_run

    result = evaluate_run(
        run, dataset, split=split, tta=tta, batch_size=batch_size, backend=backend,
        num_workers=_workers(num_workers), device=device, report=report, records=records, share=share,
    )  # fmt: skip
    if json is not None:
        result.write_json(json)
    typer.echo(result.closing_lines())


@app.command()
def predict(
    run: RunArg,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Image files, folders of them, or URLs of files.")
    ],
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Classes to show for each image.")] = 5,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result here.")] = None,
    features: Annotated[
        Path | None,
        typer.Option("--features", metavar="FILE", help="Write the last hidden layer's vectors here (.npy)."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Name the most likely classes of anyone's images.

    Example: alexnet-fast predict runs/tiny cat.jpg --top 3
    """
    from .system import check_writable

    check_writable(json, "--json")
    check_writable(features, "--features", (".npy",))
    from .evaluation import predict as predict_run

    result = predict_run(run, images, top=top, device=device, features=features is not None)
    if json is not None:
        result.write_json(json)
    if features is not None:
        result.write_features(features)
    typer.echo(result.closing_lines())
    if result.unreadable:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")] = Path("demo-out"),
    device: DeviceOption = "auto",
) -> None:
    """Walk the whole way on images it makes itself.

    Pack, verify, inspect, sweep, train, evaluate and predict, each with its command; a minute and a half on 2 cores.
    """
    from .demo import demo as run

    typer.echo(run(out, device=device))


@app.command()
def export(
    run: RunArg,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="model.onnx, model.safetensors or model.pt2.")],
) -> None:
    """Write RUN's network to a file that other programs read.

    Class names and preprocessing are inside; the file is read back and compared with the original.

    Example: alexnet-fast export runs/tiny tiny.onnx
    """
    from .evaluation import export as run_export

    typer.echo(run_export(run, target))


@app.command()
def doctor() -> None:
    """Print the facts that a bug report needs.

    Device, versions, decoders, usable cores, memory, shared memory and page cache.
    """
    from .doctor import doctor as run

    typer.echo(run())


def _workers(word: str) -> Any:
    return read_value("a number of workers", WORKERS, word, word=True)


def main() -> None:
    """Run the command line; an error is one sentence on stderr and an exit code: 2 asked wrong, 1 damaged, 130 ^C."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to end
            stream.reconfigure(errors="backslashreplace")
    code = _run()
    if code > 128:
        # Stopped by a signal: all that matters is written. What libraries do at an exit took 4 s on a busy machine.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Where a daemon or cron closed stdin, stdout or stderr, open nothing in its place.

    Else the next file that is opened would be taken for it, and a library's message written into that.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r"))  # noqa: SIM115 - until the end


def _run() -> int:
    from .system import StopSignals

    with StopSignals(ends_process=True) as stops:
        code = _call()
        stopped = code == 128 + signal.SIGINT and stops.received  # a SIGTERM ends what is under way as Ctrl-C does
        return 128 + stops.received if stopped else code


def _call() -> int:
    from .system import working_folder_is_gone

    try:
        if working_folder_is_gone():  # compiled libraries end the process over it
            raise UsageError("the working folder has been removed: go to another one (cd)")

        # Without standalone mode, typer.Exit(code) does not end the process but is what the app returns.
        code = app(standalone_mode=False, prog_name="alexnet-fast")
        if code == 128 + signal.SIGINT:  # typer's answer to Ctrl-C
            _complain("stopped")
        return code if isinstance(code, int) else 0
    except AlexNetFastError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("stopped")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader (head, less) has gone; writing what is buffered would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _exit_code_of_click(error)


def _exit_code_of_click(error: Exception) -> int:
    # typer may carry its own copy of click, so its exceptions are told by what they offer, not by their class.
    if type(error).__name__ == "Exit" and hasattr(error, "exit_code"):
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        _complain("stopped")
        return 128 + signal.SIGINT
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    from .system import limit_behind

    limit = limit_behind(error)
    if limit is not None:
        _complain(limit)
        return 1
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        _complain(f"{error.strerror or error}{where}")
        return 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _complain("there is not enough memory: use a smaller batch")
        return 1
    _complain_of_fault(error)
    return 1


def _complain_of_fault(error: Exception) -> None:
    """For what should never happen: one sentence, and the traceback in a file for a report."""
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="alexnet-fast-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        _complain(f"a fault in alexnet-fast; please report this:\n{text}")
        return
    words = " ".join(str(error).split())[:300]
    _complain(
        f"a fault in alexnet-fast ({type(error).__name__}: {words}); "
        f"please report it with {file.name} and the output of `alexnet-fast doctor`"
    )


def _complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
