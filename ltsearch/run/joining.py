"""What a machine that joins a sweep must have in common with it: versions, code and images.

``terms.json`` in the sweep's folder, which the driver writes and a helper reads; it counts while that run of the command lasts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ltsearch.run.nodes import versions
from ltsearch.store.locks import current_mark
from trainables.data import SourceKey
from trainables.errors import UserError
from trainables.files import Location, write_text

if TYPE_CHECKING:
    from trainables.data.source import Source

FILE, LOOK_SECONDS = "terms.json", 10.0


def write(folder: Location, mark: str, data: Mapping[SourceKey, Source]) -> None:
    """``mark`` is the lock's, ``data`` what is left to be trained on."""
    prints = {repr(tuple(key)): source.fingerprint for key, source in data.items()}
    write_text(folder / FILE, json.dumps({"mark": mark, "versions": versions(), "data": prints}, indent=1))


class Terms:
    """The helper's side: looks until a sweep that runs has said what it has, which may begin after the helper."""

    def __init__(self, folder: Location, data: Mapping[SourceKey, Source], root: Path) -> None:
        """``data`` is what this machine has, below ``root``."""
        self.folder, self.data, self.root = folder, data, root
        self.met = False
        self._looked = -LOOK_SECONDS

    def look(self) -> None:
        """Often called, seldom does anything.

        Raises ``UserError`` if the sweep has other versions, or other images of a set, than this machine.
        """
        if self.met or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            terms = json.loads((self.folder / FILE).read_bytes())
            if terms.get("mark") != current_mark(self.folder):
                return
        except (OSError, ValueError):  # nobody has said anything, or the storage does not answer: looked at again
            return
        here = versions()
        odd = [
            f"{name} {here.get(name, 'none')} (there {its})"
            for name, its in terms["versions"].items()
            if here.get(name) != its
        ]
        if odd:
            raise UserError(
                f"the sweep runs with other versions than this machine has: {', '.join(odd)}; results must not depend on where "
                "a trial ran: install the same here (`code` is ltsearch's own, by its hash)"
            )
        for key, source in self.data.items():
            its = terms["data"].get(repr(tuple(key)))
            if its not in (None, source.fingerprint):
                raise UserError(
                    f"{key.path or key.name} below {self.root} has other images than the sweep trains on (fingerprint "
                    f"{source.fingerprint}, there {its}): copy the set from there, or name another --data-root"
                )
        self.met = True
