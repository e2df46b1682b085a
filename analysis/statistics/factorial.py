"""Effects of ``k`` components that are switched on and off in all combinations: main effects, interactions, Shapley values.

Legend: ``y(S)`` is a value with the components ``S`` on, ``A`` and ``B`` are two of them. Every effect is linear in ``y``, so
that it is a contrast of the ``2^k`` means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial

Y = Mapping[frozenset[str], float]


def subsets(components: Sequence[str]) -> Iterator[frozenset[str]]:
    """All ``2^k`` sets of components, the small ones first."""
    for n in range(len(components) + 1):
        yield from map(frozenset, combinations(components, n))


def main_effect(y: Y, components: Sequence[str], a: str) -> float:
    """``mean over S ∌ A of y(S ∪ A) − y(S)``."""
    gains = [y[s | {a}] - y[s] for s in subsets([c for c in components if c != a])]
    return sum(gains) / len(gains)


def interaction(y: Y, components: Sequence[str], a: str, b: str) -> float:
    """``mean over S ∌ A, B of [y(S ∪ AB) − y(S ∪ B)] − [y(S ∪ A) − y(S)]``."""
    others = [c for c in components if c not in (a, b)]
    gains = [(y[s | {a, b}] - y[s | {b}]) - (y[s | {a}] - y[s]) for s in subsets(others)]
    return sum(gains) / len(gains)


def shapley(y: Y, components: Sequence[str], a: str) -> float:
    """``Σ over S ∌ A of |S|! (k − |S| − 1)! / k! · [y(S ∪ A) − y(S)]`` (Shapley, 1953)."""
    k = len(components)
    others = [c for c in components if c != a]
    return sum(
        factorial(len(s)) * factorial(k - len(s) - 1) / factorial(k) * (y[s | {a}] - y[s]) for s in subsets(others)
    )


def coefficients(components: Sequence[str], effect: Callable[[Y], float]) -> list[float]:
    """``[2^k]``: what every ``y(S)`` is multiplied by in a linear effect, in the order of ``subsets``."""
    every = list(subsets(components))
    return [effect({s: float(s == one) for s in every}) for one in every]
