"""Names of number formats and what they cost."""

from __future__ import annotations

from enum import StrEnum

import torch


class Precision(StrEnum):
    """Number format of weights and activations.

    `fp8` is for inference: linear layers in FP8 (e4m3), all else in bfloat16.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"
    FP8 = "fp8"

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of this name; of `fp8`, that of all that is not FP8."""
        return _DTYPES[self]

    @property
    def bytes(self) -> int:
        """Bytes of one number; of `fp8`, of a number that is not FP8."""
        return self.dtype.itemsize


_DTYPES = {
    Precision.FLOAT32: torch.float32,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.FLOAT16: torch.float16,
    Precision.FLOAT64: torch.float64,
    Precision.FP8: torch.bfloat16,
}


def default_precision(device: torch.device) -> Precision:
    """bfloat16 on a GPU, float32 on a CPU."""
    return Precision.BFLOAT16 if device.type == "cuda" else Precision.FLOAT32
