"""What the soak runs: sub-second epochs that train nothing, real training by two workers a trial, and two sweeps."""

from __future__ import annotations

from typing import Any

_SYNTHETIC: dict[str, Any] = {
    "name": "soak",
    "base": {
        "data": {"name": "digits", "imbalance": {"factor": 10}},
        "method": {"name": "ncl_pp", "inter": False, "intra": False, "nfl": False},
        "training": {"epochs": 27},
        "synthetic": {"epoch_seconds": 0.7},
    },
    "seeds": 4,
    "ablation": {
        "components": {
            "NFL": {"method.nfl": True},
            "InterCL": {"method.inter": True, "model.experts": 2},
            "IntraCL": {"method.intra": True, "augmentation.copies": 2},
        },
        "designs": ["factorial"],
    },
    "search": {
        "val_per_class": 5,
        "trials": 24,
        "metrics": [{"name": "val/single_top1"}],
        "early_stopping": {"grace_epochs": 3, "reduction_factor": 3},
        "confirm": {"top_k": 2, "seeds": 2},
        "space": {"method.beta": {"uniform": [0, 1]}, "method.lambda_inter": {"uniform": [0, 1]}},
    },
    "resources": {"checkpoint_seconds": 0, "max_failures": 5},
}

_TRAINING: dict[str, Any] = {
    "name": "soak",
    "base": {
        "data": {"name": "digits", "imbalance": {"factor": 10}},
        "model": {"backbone": "resnet8"},
        "method": {"name": "ncl_pp", "inter": False, "intra": False},
        "training": {"epochs": 40, "batch_size": 64, "precision": "fp64"},
    },
    "seeds": 8,
    "ablation": {
        "components": {
            "InterCL": {"method.inter": True, "model.experts": 2},
            "IntraCL": {"method.intra": True, "augmentation.copies": 2},
        },
        "designs": ["add_one_in"],
    },
    "resources": {"workers": 2, "cpus_per_worker": 0.5, "checkpoint_seconds": 0, "max_failures": 5},
}

_BESIDE: dict[str, Any] = {
    **{key: value for key, value in _SYNTHETIC.items() if key != "search"},
    "name": "beside",
    "seeds": 8,  # of which the other sweep has four
    "ablation": {**_SYNTHETIC["ablation"], "designs": ["add_one_in"]},
    "tracking": {"experiment": "soak"},
}

STUDIES: dict[str, list[dict[str, Any]]] = {
    "synthetic": [_SYNTHETIC],
    "training": [_TRAINING],
    "two": [_SYNTHETIC, _BESIDE],
}
