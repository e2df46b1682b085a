"""Published numbers: ``published/*.csv``, one value a row, as typed records."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from analysis.published import recipes as published_recipes
from analysis.read.labels import printed
from ltsearch.store.records import Published, PublishedTable
from trainables.errors import UserError

FOLDER = Path(__file__).parent
PAPERS = {
    "ncl_pp": "NCL++ (Tan et al., Pattern Recognition 147, 2024)",
    "dive": "DiVE (He et al., ICCV 2021)",
    "slides": "slides “Long-Tailed Visual Recognition” (Zhang, NUAA)",
}
CLASSIFICATION = "top1", "all"  # metric and split of a row's headline
COST = "gflops"  # end of metrics that no recipe changes


@dataclass(frozen=True)
class Number:
    """One printed value; accuracies and their differences are in percent.

    ``augmentation`` lists the policies it may be compared with (``sim+jitter``: with colour jitter).
    """

    paper: str
    table: str
    dataset: str
    imbalance: str  # the factor (1: balanced), or "natural"
    backbone: str
    method: (
        str  # the same name in every paper; empty for variants of another paper's method and for methods without one
    )
    row: str  # as it is printed, without the reference
    setting: str
    metric: str  # top1, top5, train_top1, difference (to the baseline), train_gflops or test_gflops
    split: str  # all, many, medium, few, or how the test set was shifted: "forward 50"
    value: float
    epochs: int | None  # None: not printed
    augmentation: tuple[str, ...]  # empty: not printed
    data_ratio: float  # of the training images
    note: str

    @property
    def source(self) -> str:
        """``NCL++ (…), Table 7``."""
        return source(self)

    @property
    def label(self) -> str:
        """``“NCL++” ensemble``: the row as it is printed."""
        return f"“{self.row}”" + (f" {self.setting}" if self.setting != "single" else "")


def source(of: Number | PublishedTable) -> str:
    """``NCL++ (…), Table 7``."""
    return f"{PAPERS.get(of.paper, of.paper)}, Table {of.table}"


@cache
def load(folder: Path = FOLDER) -> tuple[Number, ...]:
    """All of them, file by file in the order they are printed; raises ``UserError`` naming file and line."""
    numbers = []
    for file in sorted(folder.glob("*.csv")):
        with open(file, encoding="utf-8", newline="") as lines:
            for line, fields in enumerate(csv.DictReader(lines), start=2):
                try:
                    numbers.append(_number(fields))
                except (KeyError, TypeError, ValueError) as error:
                    raise UserError(f"{file}, line {line}: not a published number: {error!r}") from None
    return tuple(numbers)


def find(key: Published, numbers: tuple[Number, ...] | None = None) -> list[Number]:
    """Find the top-1 accuracies that ``key`` names (one table may print several sets); raises ``UserError`` if none."""
    everything = load() if numbers is None else numbers
    printed = table(key.paper, key.table, everything)
    found = [
        n for n in printed if (n.row, n.setting) == (key.row, key.setting) and (n.metric, n.split) == CLASSIFICATION
    ]
    if not found:
        known = ", ".join(dict.fromkeys(f"{n.row!r} {n.setting}" for n in printed))
        raise UserError(
            f"published: {key.paper} table {key.table} has no row {key.row!r} in the setting {key.setting!r}; "
            f"known: {known}"
        )
    return found


def table(paper: str, name: str, numbers: tuple[Number, ...] | None = None) -> list[Number]:
    """All numbers of a printed table, in printed order; raises ``UserError`` listing the tables that there are."""
    everything = load() if numbers is None else numbers
    found = [n for n in everything if (n.paper, n.table) == (paper, name)]
    if not found:
        papers = ", ".join(dict.fromkeys(n.paper for n in everything))
        known = ", ".join(dict.fromkeys(f"{n.paper} {n.table}" for n in everything))
        raise UserError(
            f"published: no table {name!r} of paper {paper!r}; known papers: {papers}; known tables: {known}"
        )
    return found


def elsewhere(number: Number, numbers: tuple[Number, ...] | None = None) -> list[Number]:
    """List what other papers print for the same thing, whatever the recipe; what a paper repeats comes once.

    The same thing: method, data, backbone, setting, metric and split. A number without a method has no counterparts.
    """
    if not number.method:
        return []
    found: dict[object, Number] = {}
    for other in load() if numbers is None else numbers:
        if other.paper != number.paper and _subject(other) == _subject(number):
            found.setdefault((other.paper, other.value, other.epochs, other.augmentation), other)
    return list(found.values())


def _subject(n: Number) -> tuple[str | float, ...]:
    return n.method, n.dataset, n.imbalance, n.data_ratio, n.backbone, n.setting, n.metric, n.split


def _number(fields: dict[str, str]) -> Number:
    return Number(
        paper=fields["paper"],
        table=fields["table"],
        dataset=fields["dataset"],
        imbalance=fields["imbalance"],
        backbone=fields["backbone"],
        method=fields["method"],
        row=fields["row"],
        setting=fields["setting"],
        metric=fields["metric"],
        split=fields["split"],
        value=float(fields["value"]),
        epochs=int(fields["epochs"]) if fields["epochs"] else None,
        augmentation=tuple(fields["augmentation"].split("|")) if fields["augmentation"] else (),
        data_ratio=float(fields["data_ratio"]) if fields["data_ratio"] else 1.0,
        note=fields["note"],
    )


# -- may a number stand beside ours? -----------------------------------------------------------------------------------

_PIXELS = {"cifar10": 32, "cifar100": 32}  # others are trained at 224


def deviations(number: Number, config: dict[str, Any]) -> list[str]:
    """Name what of a trial's configuration a published number was not made with; empty if they are comparable.

    What a network costs follows from the data set (its classes), the backbone and the image size: nothing else is compared.
    """
    data, imbalance = config["data"], config["data"]["imbalance"]
    dataset = Path(data["path"]).name if data.get("path") else data["name"]
    factor = "natural" if imbalance["profile"] == "natural" else f"{imbalance['factor']:g}"
    pixels = _PIXELS.get(number.dataset, 224)
    resized = data.get("image_size") not in (None, pixels)
    sized = [f"images of {data['image_size']} pixels instead of {pixels}"] if resized else []
    pairs = [
        ("dataset", printed(dataset), printed(number.dataset)),
        ("imbalance", factor, number.imbalance),
        ("backbone", printed(config["model"]["backbone"]), printed(number.backbone)),
        ("epochs", config["training"]["epochs"], number.epochs if number.epochs is not None else "not printed"),
    ]
    if number.metric.endswith(COST):
        pairs = [pair for pair in pairs if pair[0] in ("dataset", "backbone")]
    found = [f"{name} {ours} instead of {theirs}" for name, ours, theirs in pairs if ours != theirs]
    if number.metric.endswith(COST):
        return found + sized
    augmentation = config["augmentation"]
    mix = augmentation.get("mix", "none")
    policy = augmentation["policy"] if mix == "none" else mix
    policy += "+jitter" if augmentation.get("color_jitter") else ""
    if policy not in number.augmentation:
        found.append(f"augmentation {policy} instead of {' or '.join(number.augmentation) or 'not printed'}")
    found += sized
    # The set is only the published one if all of it is there, as it is.
    for key, neutral, theirs in (("data_ratio", 1.0, number.data_ratio), ("val_per_class", 0, 0)):
        ours = data.get(key, neutral)
        if ours != theirs:
            found.append(f"{key} {ours:g} instead of {theirs:g}")
    if imbalance["profile"] == "step":
        found.append("a step profile")
    if imbalance.get("subset_seed", 0) != 0:
        found.append(f"subset seed {imbalance['subset_seed']} instead of 0")
    return found + published_recipes.differences(number, config)
