"""The look of every figure, and how it is written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainables.files import write_atomic

# Okabe and Ito's colours, told apart with any colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, OLIVE, BROWN = "#888888", "#B8A800", "#7A3B00"  # beyond theirs, where eight are too few
PANEL = (3.2, 2.6)  # inches
WIDTH = 7.0

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.6, 0.9)), (0, (5, 1.5, 1, 1.5)))
# Without yellow, which is too light for lines on white.
_CYCLE = (ORANGE, SKY, GREEN, PURPLE, BLACK, BLUE, VERMILION, GREY, OLIVE, BROWN)
# Methods that look the same in every figure of every study, and the colours of those that stand beside each other most.
_OWN = {
    "CE": GREY,
    "BSCE": BLUE,
    "BIL": BLUE,
    "BIL + NFL": PURPLE,
    "BSCE + HCM": PURPLE,
    "BIL + InterCL": GREEN,
    "BIL + IntraCL": SKY,
    "BIL + InterCL + IntraCL": ORANGE,
    "NCL": GREEN,
    "NCL++": VERMILION,
}
METHODS = (
    *_OWN, "DiVE", "PaCo", "RIDE", "RIDE-DiVE", "BBN", "LFME", "SADE", "BalPoE", "BCL", "LDAM", "LDAM-DRW", "Focal", "CE-DRW",
    "Class-balanced CE", "Class-balanced focal", "Softmax-EQL", "Logit adjustment", "Logit adjustment (post-hoc)",
    "CE + mixup", "CE + CutMix", "CE + label smoothing", "cRT", "LWS", "τ-norm", "NCM", "DisAlign", "Weight balancing",
    "Square-root sampling", "Class-balanced sampling", "Progressively balanced sampling", "Deferred class-balanced sampling",
    "Over-sampling", "Under-sampling", "CAM-based sampling", "Independent experts", "Deep mutual learning",
)  # fmt: skip
_ENSEMBLE = " (ensemble)"  # of the same trials, thus the same colour
_LETTER, _HANDLE = 0.068, 0.62  # inches: a letter of a legend on average, and what stands around an entry's text

_RC: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "svg.fonttype": "path",  # looks the same without the font
    "svg.hashsalt": "ltsearch",  # ids in the file, which are random otherwise
}


@dataclass(frozen=True)
class Look:
    """How one method is drawn; marker and line tell methods apart where colours cannot."""

    colour: str
    marker: str
    line: Any


def style() -> Any:
    """Return the style as a context: figures are made and saved inside it, and nothing outside changes."""
    return matplotlib.rc_context(_RC)


def colours(names: Sequence[str], plan: Sequence[str] = ()) -> dict[str, str]:
    """A colour for every name, as ``looks`` gives them."""
    return {name: look.colour for name, look in looks(names, plan).items()}


def looks(names: Sequence[str], plan: Sequence[str] = ()) -> dict[str, Look]:
    """A look for every name of a figure: a method's (``METHODS``) is the same everywhere, another's in its study ``plan``.

    No two names look alike. A name that is no method's shares a colour only where there are more names than colours.
    """
    everything = list(dict.fromkeys([*plan, *names]))
    wanted = _assign(everything, {})
    chosen = _assign(list(dict.fromkeys(names)), wanted)
    at = {name: i for i, name in enumerate(everything)}
    found = {name: _method(name) for name in chosen}
    used = {(look.colour, look.marker, str(look.line)) for look in found.values() if look is not None}
    for name, colour in chosen.items():
        if found[name] is None:
            # A second round through the colours takes other lines than the first.
            line = _LINES[(at[name] + at[name] // len(_CYCLE)) % len(_LINES)]
            free = [m for m in (MARKERS * 2)[at[name] % len(MARKERS) :] if (colour, m, str(line)) not in used]
            found[name] = Look(colour, (free or MARKERS)[0], line)
            used.add((colour, (free or MARKERS)[0], str(line)))
    return {name: look for name, look in found.items() if look is not None}


def _method(name: str) -> Look | None:
    """The look of a method that has one of its own."""
    return _method_looks().get(name.removesuffix(_ENSEMBLE))


@cache
def _method_looks() -> dict[str, Look]:
    """Colours in turn; methods of one colour have other markers, in the order of ``METHODS``."""
    found: dict[str, Look] = {}
    for i, method in enumerate(METHODS):
        colour = _OWN.get(method, _CYCLE[i % len(_CYCLE)])
        used = {look.marker for look in found.values() if look.colour == colour}
        marker = next(m for m in (MARKERS * 2)[i % len(MARKERS) :] if m not in used)
        found[method] = Look(colour, marker, _LINES[(i + i // len(_CYCLE)) % len(_LINES)])
    return found


def _assign(names: Sequence[str], wanted: dict[str, str]) -> dict[str, str]:
    """A method's colour; for another name the one it wants, or where that is taken the first that is used least."""
    found = {name: look.colour for name in names if (look := _method(name)) is not None}
    for name in names:
        wish = wanted.get(name)
        if name not in found and wish is not None and wish not in found.values():
            found[name] = wish
    for name in names:
        if name not in found:
            used = list(found.values())
            found[name] = min(_CYCLE, key=used.count)
    return {name: found[name] for name in names}


def plain(text: str) -> str:
    """A text that matplotlib prints as it is: no mathematics between two dollars."""
    return text.replace("$", r"\$")


def columns(entries: Sequence[str], width: float = WIDTH) -> int:
    """How many columns a legend of these texts has in ``width`` inches."""
    longest = max((len(entry) for entry in entries), default=0)
    return max(1, min(len(entries), int(width / (_HANDLE + _LETTER * longest))))


def legend(made: Figure, handles: Sequence[Any], entries: Sequence[str]) -> None:
    """Put a legend above all panels, where it hides nothing."""
    texts = [plain(entry) for entry in entries]
    made.legend(list(handles), texts, loc="outside upper center", ncols=columns(texts, made.get_figwidth()))


def figure(width: float, height: float) -> Figure:
    """Make an empty figure in inches that keeps its labels apart. Agg: needs no display."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path) -> None:
    """Write ``<path>.png`` and ``<path>.svg``, each atomically; the same figure gives the same bytes on any day.

    A suffix ``.png`` or ``.svg`` of ``path`` is dropped.
    """
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    without: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    for kind, metadata in without.items():
        buffer = io.BytesIO()
        with style():
            made.savefig(buffer, format=kind, metadata=metadata)
        write_atomic(stem.with_name(f"{stem.name}.{kind}"), partial(_write, buffer.getvalue()))


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
