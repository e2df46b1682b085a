"""The figure of replayed searches: its medians, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures.replay import SHARES, medians, render


def lines() -> pd.DataFrame:
    """Three searches, the third of which finds nothing."""
    begin = [(search, 0.0, np.inf) for search in range(3)]
    rows = [*begin, (0, 0.1, 0.05), (0, 0.5, 0.01), (1, 0.205, 0.03)]
    found = pd.DataFrame(rows, columns=["search", "share", "gap"])
    return found.assign(sampler="tpe", early_stopping="asha")


def test_medians() -> None:
    gap = dict(zip(np.round(SHARES, 2), medians(lines()), strict=True))
    assert np.isinf(gap[0.0]) and np.isinf(gap[0.2])  # one of three has something
    assert gap[0.21] == 0.05  # 0.03, 0.05 and nothing
    assert gap[0.5] == 0.03  # 0.01, 0.03 and nothing
    assert gap[1.0] == 0.03


def test_a_panel_a_sampler_and_a_line_a_rule() -> None:
    both = pd.concat([lines(), lines().assign(early_stopping="none"), lines().assign(sampler="random")])
    panels = render(both, "val/single_top1", 0.003).axes
    assert [axes.get_title() for axes in panels] == ["tpe", "random"]
    assert [len(axes.lines) for axes in panels] == [3, 2]  # with what counts as close
