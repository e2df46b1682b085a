"""What decides and runs: the study, the plan, search and early stopping, trials, tracking, the command line and Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltsearch.api import Best, Study, load

__version__ = "0.1.0"
__all__ = ["Best", "Study", "load"]


def __getattr__(name: str) -> Any:
    """``ltsearch.load`` and what it returns, loaded when they are asked for: every module here passes through this one."""
    if name in __all__:
        from ltsearch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
