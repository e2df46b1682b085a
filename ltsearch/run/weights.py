"""The weights of cells that others require, looked at before a trial is started that could only fail."""

from __future__ import annotations

from ltsearch.plan.cells import Cell
from ltsearch.store.cells import WEIGHTS, CellStore


def unusable(store: CellStore, cell: Cell) -> str | None:
    """Why the weights of a finished cell cannot be used; None if they can. Builds the network on the CPU, once a cell."""
    if cell.config.synthetic is not None or cell.config.custom is not None:
        return None  # has none, and needs none
    import torch

    from trainables import trained

    path = store.folder(cell.id) / WEIGHTS
    try:
        trained.load(cell.config, path, torch.device("cpu"), torch.float32)
    except OSError:
        raise  # the storage's fault, not that of the weights
    except Exception as error:  # missing, damaged, of another network, or not even tensors
        said = " ".join(str(error).split())[:300]
        return said if str(path) in said else f"{path}: {type(error).__name__}: {said}"
    return None
