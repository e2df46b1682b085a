"""The string that timm gives its RandAugment by, such as ``rand-n2-m10-mstd0.5-inc1``. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_READ: dict[str, Callable[[str], float]] = {
    "n": int, "m": int, "mmax": int, "mstd": float, "p": float, "inc": lambda text: bool(("0", "1").index(text)),
}  # fmt: skip
_SECTIONS = (
    "sections are n (operations, 0 to 10), m (magnitude, 0 to mmax), mstd (its standard deviation; above 100: uniform from 0 "
    "to m), mmax (largest magnitude, 1 to 100; 10 if left out), inc (0, or 1: more with magnitude), p (probability, 0 to 1)"
)


@dataclass(frozen=True)
class Settings:
    """What the string says, with timm's defaults; ``mstd`` is infinite for magnitudes uniform from 0 to ``m``."""

    n: int = 2
    m: int = 10
    mstd: float = 0.0
    mmax: int = 10
    inc: bool = False
    p: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges; raises ``ValueError`` that names the section."""
        for key, most in {"n": 10, "mmax": 100, "m": self.mmax, "mstd": math.inf, "p": 1}.items():
            if not (key == "mmax") <= getattr(self, key) <= most:
                raise ValueError(f"{key}{getattr(self, key)} is out of range with mmax{self.mmax}: {_SECTIONS}")


def parse(text: str) -> Settings:
    """Read the string; its sections come in any order, and all of them but ``rand`` may be left out.

    Raises:
        ValueError: it does not begin with ``rand``, or a section is unknown, malformed, out of range or there twice. timm
            passes over some of that in silence, such as ``mstdinf``; its sets of transforms (``t``) are not to be had.

    """
    first, *sections = text.split("-")
    if first != "rand":
        raise ValueError(f"{text!r} begins with {first!r}, not with 'rand' as rand-m10-inc1 does: {_SECTIONS}")
    found: dict[str, Any] = {}
    for section in sections:
        key = section.rstrip("0123456789.")
        value = section[len(key) :]
        try:
            if key in found or value.startswith("."):
                raise ValueError
            found[key] = _READ[key](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"{text!r} has a section {section!r} that is unknown, malformed or there twice: {_SECTIONS}"
            ) from None
    mstd = found.pop("mstd", 0.0)
    return Settings(**found, mstd=mstd if mstd <= 100 else math.inf)
