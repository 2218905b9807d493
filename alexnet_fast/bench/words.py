"""How the verdict writes numbers."""

from __future__ import annotations


def number(value: float) -> str:
    """A number of images, or of images/s, with three or more digits shown."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def workers(count: int) -> str:
    """So many workers."""
    return {0: "no workers", 1: "1 worker"}.get(count, f"{count} workers")


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{share * 100:.0f}%"


def times(ratio: float) -> str:
    """A ratio, as what stands before 'as fast'."""
    if 0.95 <= ratio < 1.1:
        return f"{ratio:.2f} times"
    return f"{ratio:.2g} times" if ratio < 9.95 else f"{ratio:.0f} times"


def milliseconds(value: float) -> str:
    """Milliseconds, without the unit."""
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}" if value >= 0.001 else "under 0.001"


def seconds(value: float) -> str:
    """Seconds, with the unit."""
    return f"{value:.1f} s" if value >= 0.95 else f"{value:.2g} s"


def size(count: float) -> str:
    """So many bytes, in the largest unit that leaves a digit before the point."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
