"""Figures that answer the pointer: the data of a figure as a Vega-Lite chart, for ``report.html``.

A kind without a chart is shown as its image. Colours are those of the images; black is the page's ink (``currentColor``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import altair as alt

from analysis.figures import search as search_figures
from analysis.figures import style
from analysis.figures.accuracy_cost import AccuracyCost
from analysis.figures.common import ACCURACY, PREDICT
from analysis.figures.forest import Forest
from analysis.figures.learning_curves import Curves
from analysis.read import labels
from analysis.tables.search import SearchSummary
from ltsearch.store.records import FigureKind

Chart = dict[str, Any]
_INK = "currentColor"
_PANEL = {"width": 320, "height": 220}
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, DejaVu Sans, sans-serif",
    "axis": {"labelColor": _INK, "titleColor": _INK, "domainColor": _INK, "tickColor": _INK, "gridOpacity": 0.3},
    "legend": {"labelColor": _INK, "titleColor": _INK, "labelLimit": 320},
    "title": {"color": _INK},
    "header": {"labelColor": _INK, "titleColor": _INK},
    "view": {"stroke": None},
}
MOST = 2_000  # trials in a chart of a search


def of_figure(kind: FigureKind, data: Any) -> Chart | None:
    """The chart of a kind of figure; None for a kind that has none."""
    made = _KINDS.get(kind)
    return None if made is None else _spec(lambda: made(data))


def of_search(name: str, summary: SearchSummary) -> Chart | None:
    """The chart of a figure of a search, by the figure's name; None for one that has none."""
    for prefix, made in _SEARCH.items():
        if name.startswith(prefix):
            number = name.removeprefix(prefix).lstrip("_")
            return _spec(partial(made, summary, int(number) - 1 if number else 0))
    return None


def _spec(make: Callable[[], Any]) -> Chart:
    """With the look of the page."""
    with warnings.catch_warnings():  # one selection over all panels is what is meant
        warnings.filterwarnings("ignore", "Automatically deduplicated selection parameter")
        found: Chart = make().configure(**_CONFIG).to_dict()
    return found


def _rows(values: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(value) for value in values])


def _colours(names: Sequence[str], palette: Sequence[str]) -> alt.Color:
    """A row's colour, as in the images; a click in the legend shows one row."""
    looks = style.looks(names, palette)
    inks = [_INK if looks[name].colour == style.BLACK else looks[name].colour for name in names]
    legend = alt.Legend(title=None, orient="top", columns=max(1, style.columns(names)), symbolOpacity=1)
    return alt.Color("row:N", scale=alt.Scale(domain=list(names), range=inks), legend=legend, sort=None)


def _picked() -> tuple[Any, Any]:
    """A selection of rows in the legend, and the opacity that shows it."""
    pick = alt.selection_point(fields=["row"], bind="legend", name="pick")
    return pick, alt.condition(pick, alt.value(1.0), alt.value(0.12))


# -- kinds -------------------------------------------------------------------------------------------------------------


def _learning_curves(data: Curves) -> Any:
    names = list(dict.fromkeys(line.row for lines in data.panels.values() for line in lines))
    pick, opacity = _picked()
    band = alt.condition(pick, alt.value(0.15), alt.value(0.02))
    panels = []
    for metric, lines in data.panels.items():
        values = [
            {"row": line.row, "epoch": epoch, "mean": point.mean, "low": low, "high": high, "seeds": point.n}
            for line in lines
            for epoch, point, low, high in zip(line.epochs, line.points, line.low, line.high, strict=True)
        ]
        base = alt.Chart(_rows(values), title=labels.label(metric)).encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d")),
            color=_colours(names, data.palette),
        )
        area = base.mark_area().encode(
            y=alt.Y("low:Q", title=None, scale=alt.Scale(zero=False)), y2="high:Q", opacity=band
        )
        line_ = base.mark_line(point=alt.OverlayMarkDef(size=18)).encode(
            y=alt.Y("mean:Q", title=None),
            opacity=opacity,
            tooltip=["row:N", "epoch:Q", *_numbers("mean", "low", "high"), "seeds:Q"],
        )
        panels.append(alt.layer(area, line_).properties(**_PANEL))
    return alt.concat(*panels, columns=2).add_params(pick).resolve_scale(y="independent")


def _numbers(*fields: str) -> list[Any]:
    return [alt.Tooltip(f"{name}:Q", format=".4~g") for name in fields]


def _forest(data: Forest) -> Any:
    panels = []
    for panel in data.panels:
        looks = style.looks([line.title for line in panel.lines], data.palette)
        order = [line.row for line in panel.lines]
        colours = [_INK if (c := looks[line.title].colour) == style.BLACK else c for line in panel.lines]
        colour = alt.Color("row:N", scale=alt.Scale(domain=order, range=colours), legend=None)
        y = alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=260))
        title = f"difference to {panel.reference} (points)"
        rows = [
            {"row": line.row, "difference": line.difference.mean, "n": line.difference.n, "p": line.difference.p}
            | dict(zip(("low", "high"), line.difference.interval or (None, None), strict=True))
            for line in panel.lines
        ]
        dots = [{"row": line.row, "seed": seed, "value": v} for line in panel.lines for seed, v in line.seeds.items()]
        base = alt.Chart(_rows(rows)).encode(y=y, color=colour)
        told = ["row:N", *_numbers("difference", "low", "high", "p"), "n:Q"]
        parts = [alt.Chart(_rows([{"zero": 0}])).mark_rule(color=style.GREY).encode(x="zero:Q")]
        if any(line.difference.interval for line in panel.lines):
            parts.append(base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", tooltip=told))
        parts += [
            base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("difference:Q", title=title), tooltip=told),
            alt.Chart(_rows(dots))
            .mark_point(size=22, yOffset=-8)
            .encode(x="value:Q", y=y, color=colour, tooltip=["row:N", "seed:Q", *_numbers("value")]),
        ]
        chart = alt.layer(*parts).properties(width=420, height=alt.Step(26))
        panels.append(chart.properties(title=panel.title) if panel.title else chart)
    return alt.concat(*panels, columns=1).resolve_scale(color="independent")


def _accuracy_cost(data: AccuracyCost) -> Any:
    names = list(dict.fromkeys(point.row for point in data.points))
    pick, opacity = _picked()
    values = [
        {
            "row": point.row,
            "prediction": PREDICT[point.predict],
            "cost": point.cost,
            "accuracy": point.accuracy.mean,
            "std": point.accuracy.std,
            "low": point.accuracy.mean - (point.accuracy.std or 0),
            "high": point.accuracy.mean + (point.accuracy.std or 0),
            "seeds": point.accuracy.n,
            "front": point.front,
        }
        for point in data.points
    ]
    base = alt.Chart(_rows(values)).encode(
        x=alt.X("cost:Q", scale=alt.Scale(type="log"), title="training step: 10⁹ multiply-adds per image"),
        y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False), title=ACCURACY),
    )
    front = base.transform_filter("datum.front").mark_line(interpolate="step-after", color=style.GREY)
    colour = _colours(names, data.palette)
    whiskers = base.mark_rule().encode(y="low:Q", y2="high:Q", color=colour, opacity=opacity)
    told = ["row:N", "prediction:N", *_numbers("cost", "accuracy", "std"), "seeds:Q"]
    shape = alt.Shape("prediction:N", scale=alt.Scale(domain=list(PREDICT.values()), range=["circle", "diamond"]))
    points = base.mark_point(size=70, filled=True).encode(color=colour, shape=shape, opacity=opacity, tooltip=told)
    return alt.layer(front, whiskers, points).add_params(pick).properties(width=560, height=340)


# -- searches ----------------------------------------------------------------------------------------------------------


def _trials(summary: SearchSummary, metric: int) -> list[dict[str, Any]]:
    """Trials with a value, the best ``MOST``; parameters by their short names."""
    names = labels.short_names(summary.parameters)
    sign = -1 if summary.directions[metric].startswith("max") else 1
    found = [trial for trial in summary.trials if trial.values is not None and trial.state in ("finished", "pruned")]
    found = sorted(found, key=lambda trial: (sign * (trial.values or [0.0])[metric], trial.number))[:MOST]
    return [
        {"trial": trial.number, "state": trial.state, "value": (trial.values or [0.0])[metric]}
        | {short: labels.text(trial.params[key]) for key, short in names.items() if key in trial.params}
        for trial in found
    ]


def _slices(summary: SearchSummary, metric: int) -> Any:
    names = labels.short_names(summary.parameters)
    trials = _trials(summary, metric)
    told = [alt.Tooltip("trial:Q"), alt.Tooltip("state:N"), *_numbers("value"), *(f"{n}:N" for n in names.values())]
    brush = alt.selection_interval(name="brush")
    colour = alt.condition(
        brush,
        alt.Color(
            "state:N",
            scale=alt.Scale(domain=["finished", "pruned"], range=[style.BLUE, style.GREY]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        alt.value("#BBBBBB"),
    )
    panels = []
    for shown in search_figures.build_slices(summary, metric):
        short = names[shown.parameter]
        x: Any = alt.X(f"{short}:Q", scale=alt.Scale(type="log") if shown.log else alt.Scale(zero=False))
        if shown.categories:
            x = alt.X(f"{short}:N", sort=list(shown.categories))
        y = alt.Y("value:Q", scale=alt.Scale(zero=False), title=labels.label(shown.metric))
        panels.append(
            alt.Chart(alt.NamedData("trials")).mark_circle(size=40).encode(x=x, y=y, color=colour, tooltip=told)
        )
    chart = alt.concat(*(panel.properties(width=250, height=200) for panel in panels), columns=3)
    return chart.add_params(brush).properties(datasets={"trials": trials})


def _parallel(summary: SearchSummary, metric: int) -> Any:
    """A line a trial across all parameters: numbers by where they are between the least and the greatest, choices by rank."""
    shown = search_figures.build_parallel(summary, metric)
    values = [
        {"trial": line.trial, "value": line.value, "parameter": axis.name, "at": at, "said": axis.said[line.trial]}
        for line in shown.lines[:MOST]
        for axis, at in zip(shown.axes, line.at, strict=True)
        if at is not None
    ]
    over = alt.selection_point(fields=["trial"], on="pointerover", nearest=False, empty=False, name="over")
    colour = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="viridis"),
        legend=alt.Legend(title=labels.label(shown.metric), titleLimit=300, type="gradient"),
    )
    order = [axis.name for axis in shown.axes]
    base = alt.Chart(_rows(values)).encode(
        x=alt.X("parameter:N", sort=order, title=None, axis=alt.Axis(labelAngle=-20, labelLimit=220)),
        y=alt.Y("at:Q", title="from least to greatest", axis=alt.Axis(labels=False, ticks=False)),
        detail="trial:N",
        color=colour,
    )
    told = ["trial:Q", *_numbers("value"), "parameter:N", alt.Tooltip("said:N", title="is")]
    lines = base.mark_line().encode(
        opacity=alt.condition(over, alt.value(1.0), alt.value(0.35)),
        strokeWidth=alt.condition(over, alt.value(3), alt.value(1)),
    )
    points = base.mark_circle(size=30).encode(tooltip=told).add_params(over)
    return alt.layer(lines, points).properties(width=max(420, 110 * len(order)), height=300)


_KINDS: dict[FigureKind, Callable[[Any], Any]] = {
    "learning_curves": _learning_curves,
    "forest": _forest,
    "accuracy_cost": _accuracy_cost,
}
_SEARCH: dict[str, Callable[[SearchSummary, int], Any]] = {"search_slices": _slices, "search_parallel": _parallel}
