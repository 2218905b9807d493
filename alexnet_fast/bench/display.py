"""A sweep as it goes on: a table that fills on a terminal, a line a result elsewhere; on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from .results import OK, Row
from .tables import plain_line, terminal_row

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from .sweep import Cell


class Display(Protocol):
    """What a sweep tells of itself."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def rows(self, rows: Sequence[Row]) -> None:
        """The table as it stands now."""

    def turn(self, cell: Cell, rows: Sequence[Row]) -> None:
        """A cell begins or ends a repeat."""

    def close(self) -> None:
        """Nothing more is drawn over; what is shown stays."""


@contextmanager
def open_display() -> Iterator[Display]:
    """The display that suits stderr."""
    display: Display = _LiveTable() if sys.stderr.isatty() else _Lines()
    try:
        yield display
    finally:
        display.close()


class _Lines:
    """For logs: each repeat's end is a line."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.num_workers is None:
                self.say(plain_line(row))

    def turn(self, cell: Cell, rows: Sequence[Row]) -> None:
        done = len(cell.rates)
        if (done or cell.status != OK) and self._seen.get(id(cell), -1) != done:
            self.say(plain_line(cell.result()))
        self._seen[id(cell)] = done

    def close(self) -> None:
        pass


# Two lines each, so that a row fits into 80 columns.
_HEADINGS = (
    "\nbackend", "\nworkers", "\nbatch", "\npin", "images\n/s", "\nspread", "first\nbatch", "memory\nMB",
    "CPU s\n/1,000", "cores\nbusy", "",
)  # fmt: skip


class _LiveTable:
    """For a terminal: the table is redrawn in place, the cell that is being measured marked."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._current: Cell | None = None

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def rows(self, rows: Sequence[Row]) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        self._live.update(self._table(rows))

    def turn(self, cell: Cell, rows: Sequence[Row]) -> None:
        self._current = None if self._current is cell else cell
        self.rows(rows)

    def _table(self, rows: Sequence[Row]) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="left" if i in (0, len(_HEADINGS) - 1) else "right", no_wrap=True)
        highest = max((row.rate for row in rows if row.ok), default=0.0)
        current = self._current.row if self._current is not None else None
        notes = []
        for row in rows:
            if row.num_workers is None:
                notes.append(plain_line(row))
                continue
            cells = list(terminal_row(row))
            measuring = current is not None and (row.backend, row.num_workers, row.pin_memory, row.batch_size) == (
                current.backend, current.num_workers, current.pin_memory, current.batch_size,
            )  # fmt: skip
            if measuring:
                cells[-1] = "now"
            elif row.status.startswith("not measured"):
                cells[-1] = "waits"
            elif row.status != OK:
                cells[-1] = "failed"
                notes.append(plain_line(row))
            style = "bold green" if row.ok and row.rate == highest else "" if row.ok or measuring else "dim"
            table.add_row(*[Text(cell) for cell in cells], style=style)
        return Group(table, *[Text(note, style="dim") for note in notes])

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print()  # keeps the verdict, which follows, apart
