"""The search space: which configuration keys vary, over what, and under which condition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from random import Random
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainables.section import LARGEST_FLOAT

Scalar = bool | int | float | str
MOST_VALUES = 100_000  # of a parameter that is gone through; more are as good as continuous
LARGEST = 2**53  # whole numbers that Optuna's floating-point numbers tell apart


class Parameter(BaseModel):
    """One parameter: exactly one of ``uniform``, ``loguniform``, ``int``, ``choice``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    uniform: tuple[float, float] | None = Field(None, description="[low, high], both included")
    loguniform: tuple[float, float] | None = Field(None, description="[low, high] on a logarithmic scale, low > 0")
    int_: tuple[int, int] | None = Field(None, alias="int", description="[low, high], whole numbers, both included")
    choice: Annotated[list[Scalar], Field(min_length=1)] | None = Field(None, description="one of these values")
    step: float | None = Field(None, gt=0, description="for uniform: a grid of this step from low on")
    keys: list[str] | None = Field(
        None,
        description="configuration keys that all take the value (tied); none: the parameter's own name; []: no key, "
        "a switch for the conditions of others",
    )
    when: dict[str, Scalar | list[Scalar]] | None = Field(
        None, description="sampled only when these other parameters have this value, or one of these"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [kind for kind in ("uniform", "loguniform", "int_", "choice") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            named = ", ".join(kind.rstrip("_") for kind in kinds) or "none"
            raise ValueError(f"must have exactly one of uniform, loguniform, int, choice; has {named}")
        for kind in ("uniform", "loguniform", "int_"):
            bounds = getattr(self, kind)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(
                    f"{kind.rstrip('_')}: low < high must hold, but got [{bounds[0]}, {bounds[1]}]; "
                    "swap them, or fix the value in `base`"
                )
        for bound in (*(self.uniform or ()), *(self.loguniform or ()), *(self.int_ or ())):
            most = LARGEST if self.int_ is not None else LARGEST_FLOAT
            if abs(bound) > most:
                raise ValueError(f"{kinds[0].rstrip('_')}: {bound:.3g} is out of range, ±{most:.3g}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: low > 0 must hold, but got {self.loguniform[0]}")
        if self.step is not None and self.uniform is None:
            raise ValueError("step goes with uniform only")
        return self

    def distribution(self) -> Any:
        """The Optuna distribution; imports optuna."""
        from optuna import distributions as d

        if self.uniform is not None:
            return d.FloatDistribution(*self.uniform, step=self.step)
        if self.loguniform is not None:
            return d.FloatDistribution(*self.loguniform, log=True)
        if self.int_ is not None:
            return d.IntDistribution(*self.int_)
        return d.CategoricalDistribution(self.choice or [])

    def targets(self, name: str) -> list[str]:
        """The configuration keys that the parameter of this name sets."""
        return [name] if self.keys is None else self.keys

    def values(self) -> list[Scalar] | None:
        """All values of a discrete parameter; None for a continuous one, and for more of them than can be gone through."""
        if self.choice is not None:
            return list(self.choice)
        if self.int_ is not None:
            first, last = self.int_
            return list(range(first, last + 1)) if last - first < MOST_VALUES else None
        if self.uniform is not None and self.step is not None:
            low, high = self.uniform
            if (high - low) / self.step >= MOST_VALUES:
                return None
            return [low + i * self.step for i in range(math.floor((high - low) / self.step + 1e-9) + 1)]
        return None

    def match(self, value: object) -> Scalar | None:
        """The value as the space has it; None if it is not one of its values. 1 and 1.0 are the same, true is not."""
        if self.choice is not None:
            same = (v for v in self.choice if v == value and isinstance(v, bool) == isinstance(value, bool))
            return next(same, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        low, high = self.uniform or self.loguniform or self.int_ or (0.0, 0.0)
        steps = (value - low) / self.step if self.step else 0.0
        if not low <= value <= high or abs(steps - round(steps)) > 1e-6:
            return None
        if self.int_ is not None:
            return int(value) if value == int(value) else None
        return float(value)

    def sample_values(self) -> list[Scalar]:
        """Values that stand for the range when a space is checked: all of a choice, else both bounds and one in between.

        The one in between has a fraction, or lies on the second step: a key that takes whole numbers shows itself by it.
        """
        if self.choice is not None:
            return list(self.choice)
        if self.int_ is not None:
            return list(self.int_)
        if self.uniform is not None:
            low, high = self.uniform
            return [low, high, low + self.step if self.step else low + (high - low) * 0.6180339887]
        low, high = self.loguniform or (1.0, 1.0)
        return [low, high, low * (high / low) ** 0.6180339887]

    def describe(self) -> str:
        """``uniform [0.1, 0.9]`` and so on, with its condition."""
        if self.choice is not None:
            text = "choice " + ", ".join(map(str, self.choice))
        elif self.int_ is not None:
            text = f"int {self.int_[0]}..{self.int_[1]}"
        else:
            kind = "uniform" if self.uniform is not None else "loguniform"
            bounds = self.uniform or self.loguniform or (0.0, 0.0)
            text = f"{kind} [{bounds[0]:g}, {bounds[1]:g}]" + (f" step {self.step:g}" if self.step else "")
        if self.when:
            text += " when " + " and ".join(
                f"{k} in {v}" if isinstance(v, list) else f"{k} = {v}" for k, v in self.when.items()
            )
        return text


Space = dict[str, Parameter]


def check_space(space: Mapping[str, Parameter]) -> None:
    """Conditions name parameters of the space, not in a circle, with values they can take. Raises ``ValueError``."""
    for name, parameter in space.items():
        for other, wanted in (parameter.when or {}).items():
            if other not in space:
                raise ValueError(f"search.space.{name}.when: {other!r} is not a parameter; known: {', '.join(space)}")
            possible = space[other].values()
            if wanted == []:
                raise ValueError(
                    f"search.space.{name}.when: {other!r} must be one of no values; name some, or leave it out"
                )
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if possible is not None and value not in possible:
                    raise ValueError(f"search.space.{name}.when: {other!r} never is {value!r}; it can be {possible}")
    ordered(space)
    _check_keys(space)


def _check_keys(space: Mapping[str, Parameter]) -> None:
    """No two parameters that may be sampled together set one key: the later one would win in silence."""
    conditions = {name: _conditions(space, name) for name in space}
    setters: dict[str, list[str]] = {}
    for name, parameter in space.items():
        for key in dict.fromkeys(parameter.targets(name)):
            for other in setters.get(key, []):
                theirs, ours = conditions[other], conditions[name]
                if not any(not set(ours[k]) & set(theirs[k]) for k in ours.keys() & theirs.keys()):
                    raise ValueError(
                        f"search.space: {other!r} and {name!r} both set {key!r}, and one would win in silence; drop one, or "
                        "give them conditions (`when`) that exclude each other"
                    )
            setters.setdefault(key, []).append(name)


def _conditions(space: Mapping[str, Parameter], name: str) -> dict[str, list[Scalar]]:
    """Values of other parameters with which one is sampled, its conditions' own conditions included."""
    found: dict[str, list[Scalar]] = {}
    for other, wanted in (space[name].when or {}).items():
        found |= _conditions(space, other)
        found[other] = wanted if isinstance(wanted, list) else [wanted]
    return found


def examples(space: Mapping[str, Parameter], count: int) -> Iterator[dict[str, Scalar]]:
    """Choices of parameters: all of a small discrete space, else so many at random, always the same."""
    everything = combinations(space, count)
    if everything is not None:
        yield from everything
        return
    random = Random(0)
    for _ in range(count):
        chosen: dict[str, Scalar] = {}
        for name in ordered(space):
            if active(space[name], chosen):
                chosen[name] = _pick(space[name], random)
        yield chosen


def _pick(parameter: Parameter, random: Random) -> Scalar:
    if parameter.choice is not None:
        return random.choice(parameter.choice)
    if parameter.int_ is not None:
        return random.randint(*parameter.int_)
    if (values := parameter.values()) is not None:
        return random.choice(values)
    low, high = parameter.uniform or parameter.loguniform or (0.0, 1.0)
    if parameter.uniform is not None:
        return random.uniform(low, high)
    return min(high, max(low, math.exp(random.uniform(math.log(low), math.log(high)))))


def ordered(space: Mapping[str, Parameter]) -> list[str]:
    """Names such that conditions come before what depends on them; raises ``ValueError`` on a circle."""
    done: list[str] = []
    while len(done) < len(space):
        ready = [n for n in space if n not in done and all(other in done for other in space[n].when or {})]
        if not ready:
            raise ValueError(
                f"search.space: conditions in a circle among {', '.join(n for n in space if n not in done)}"
            )
        done += ready
    return done


def active(parameter: Parameter, chosen: Mapping[str, Scalar]) -> bool:
    """Does the condition hold for what has been chosen? A parameter that was itself not sampled holds for nothing."""
    for other, wanted in (parameter.when or {}).items():
        if other not in chosen or chosen[other] not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def overrides(space: Mapping[str, Parameter], chosen: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Configuration overrides by dotted key for a choice of parameters."""
    return {key: value for name, value in chosen.items() for key in space[name].targets(name)}


def combinations(space: Mapping[str, Parameter], limit: int = 100_000) -> list[dict[str, Scalar]] | None:
    """Every choice of a discrete space, inactive parameters left out; None if it is continuous or larger than ``limit``."""
    sizes = [parameter.values() for parameter in space.values()]
    if any(values is None for values in sizes) or math.prod(len(v or []) for v in sizes) > limit:
        return None

    def walk() -> Iterator[dict[str, Scalar]]:
        names = ordered(space)
        seen = set()
        for values in product(*(space[n].values() or [] for n in names)):
            chosen: dict[str, Scalar] = {}
            for name, value in zip(names, values, strict=True):
                if active(space[name], chosen):
                    chosen[name] = value
            key = tuple(sorted(chosen.items(), key=str))
            if key not in seen:
                seen.add(key)
                yield chosen

    return list(walk())
