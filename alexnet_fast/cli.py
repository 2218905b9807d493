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

from .commands import RUN, EvaluateConfig, PackConfig, PredictConfig
from .config import BACKEND, BACKENDS, DATASET, DEVICES, WORKERS, BenchConfig, TrainConfig
from .errors import AlexNetFastError, UsageError
from .options import SWITCH, Option, default_of, flag_of, options_of, read_value, shown_name, whole
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


def _from_config(kind: type[Config]) -> Callable[[Callable[[Config], None]], Callable[..., None]]:
    """Makes a command of a function that takes a config of `kind`, with the arguments and options that it declares."""
    entries = {entry.name: (entry, known) for entry, known in options_of(kind) if known.help}

    def decorate(run: Callable[[Config], None]) -> Callable[..., None]:
        def command(**words: Any) -> None:
            values = {
                name: read_value(shown_name(entry), known.kind, words[name], word=True)
                for name, (entry, known) in entries.items()
                if words[name] not in (None, [])
            }
            run(kind(**values))

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        types = {name: _typer_type(*entry) for name, entry in entries.items()}
        command.__signature__ = signatures.Signature(  # type: ignore[attr-defined]
            [
                signatures.Parameter(
                    name, signatures.Parameter.KEYWORD_ONLY, annotation=types[name], default=_typer_default(*entry)
                )
                for name, entry in entries.items()
            ]
        )
        command.__annotations__ = types
        return command

    return decorate


def _typer_type(entry: Field[Any], known: Option) -> Any:
    flag, kind = flag_of(entry), known.kind
    if known.argument:
        return Annotated[kind.type, typer.Argument(metavar=known.metavar, help=known.help)]
    if kind is SWITCH:
        flag = f"{flag}/--no-{flag[2:]}" if entry.default else flag
        return Annotated[bool, typer.Option(flag, help=known.help)]
    option = typer.Option(flag, metavar=known.metavar, help=known.help, autocompletion=_completes(kind.words))
    return Annotated[kind.type | None if _typer_default(entry, known) is None else kind.type, option]


def _typer_default(entry: Field[Any], known: Option) -> Any:
    default = default_of(entry)
    if known.argument:
        return signatures.Parameter.empty
    if default is None or default == {}:
        return None
    return known.kind.write(default) if known.kind.type is str else default


DatasetArg = Annotated[str, typer.Argument(metavar="DATASET", help=DATASET["option"].help)]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help=RUN["option"].help)]
DeviceOption = Annotated[str, _one_of("--device", DEVICES, "Where to compute.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"alexnet-fast {__version__}")
        raise typer.Exit


@app.command()
@_from_config(PackConfig)
def pack(config: PackConfig) -> None:
    """Write the images of SOURCE into LMDB shards in DATASET.

    Example: alexnet-fast pack tiny-imagenet-200.zip data/tiny
    """
    from .packing import describe_pack, write_dataset
    from .system import progress_bar

    with progress_bar("packing") as progress:
        info = write_dataset(config, progress)
    typer.echo(describe_pack(info, config.dataset, seek_index=config.seek_index))


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
        str | None, typer.Option("--split", metavar="NAME", help="Split that the grid shows; train if not given.")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", metavar="FILE", help="Write a PNG of labelled images here.")
    ] = None,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Show what the training loader feeds the network.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed that draws the grid's images.")] = 0,
    image_size: Annotated[
        int, typer.Option("--image-size", metavar="N", help="Side of the crops of --augmented, pixels.")
    ] = 224,
    backend: Annotated[str, _one_of("--backend", BACKENDS, "Loader backend of --augmented.")] = "auto",
) -> None:
    """Say what DATASET holds, and draw a grid of its images.

    Splits, sizes, class balance, and what pack changed of the images.

    Example: alexnet-fast inspect data/tiny --grid tiny.png --augmented
    """
    from .inspection import inspect as run

    image_size = read_value("--image-size", whole(8), image_size)
    backend = read_value("--backend", BACKEND, backend)
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
@_from_config(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> None:
    """Measure the top-1 and top-5 accuracy of RUN on DATASET.

    Example: alexnet-fast evaluate runs/tiny data/tiny --tta flip
    """
    from .evaluation import evaluate as run

    typer.echo(run(**vars(config)).closing_lines())


@app.command()
@_from_config(PredictConfig)
def predict(config: PredictConfig) -> None:
    """Name the most likely classes of your own images.

    Example: alexnet-fast predict runs/tiny cat.jpg --top 3
    """
    from .evaluation import predict as run

    result = run(**vars(config))
    typer.echo(result.closing_lines())
    if result.unreadable:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write; an earlier demo there is replaced.")
    ] = Path("demo-out"),
    device: DeviceOption = "auto",
) -> None:
    """Show the whole way on images that it makes itself.

    Pack, verify, inspect, sweep, train, evaluate and predict, each with its command; a minute and a half on 2 cores.
    """
    from .demo import demo as run

    typer.echo(run(out, device=device))


@app.command()
def export(
    run: RunArg,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, a .onnx, .safetensors or .pt2.")],
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
    return read_value("--workers", WORKERS, word, word=True)


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
        _complain("the device's memory is full: end other programs there, use a smaller batch, or the CPU")
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
