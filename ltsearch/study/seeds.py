"""Seeds as a study writes them."""

from __future__ import annotations

from collections.abc import Sequence

MOST_SEEDS, LARGEST = 1000, 2**31


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """``3`` is 0, 1, 2; raises ``ValueError`` for none, repeated or negative ones."""
    if (seeds if isinstance(seeds, int) else len(seeds)) > MOST_SEEDS:
        raise ValueError(
            f"seeds = {seeds if isinstance(seeds, int) else f'{len(seeds)} of them'}: at most {MOST_SEEDS}"
        )
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= LARGEST:
        raise ValueError(f"seeds = {seeds}: a number >= 1, or a list of different seeds >= 0 and < 2^31")
    return chosen
