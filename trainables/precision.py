"""What ``training.precision`` means: the type of the weights, and autocast."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from trainables.config import TrialConfig


def dtype_of(config: TrialConfig) -> torch.dtype:
    """The type of weights, inputs and losses: bf16 autocast keeps all three in float32."""
    return torch.float64 if config.training.precision == "fp64" else torch.float32


def apply(config: TrialConfig) -> None:
    """Set what holds for this whole process: kernels that repeat themselves, and what float32 means to a GPU's tensor cores."""
    training = config.training
    # cuBLAS repeats itself only so, and reads it once, before the first trial that asks for it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(training.deterministic)
    torch.backends.cudnn.benchmark = not training.deterministic
    # torch's default would multiply in TF32 in convolutions, and in float32 elsewhere.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = training.precision == "tf32"


def autocast(config: TrialConfig, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast where the trial asks for it."""
    if config.training.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def emulated(config: TrialConfig, device: torch.device) -> str | None:
    """What to tell where bf16 is asked for and the hardware has no instructions for it; None if all is well."""
    if config.training.precision != "bf16":
        return None
    if device.type == "cuda":
        there = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        there = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if there:
        return None
    return f"precision: bf16 is emulated on this {device.type} device: the numbers hold, but it may be slower than fp32"


def warn_if_emulated(config: TrialConfig, device: torch.device) -> None:
    """Warn in that case."""
    if text := emulated(config, device):
        warnings.warn(text, stacklevel=2)
