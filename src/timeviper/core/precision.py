"""Names of number formats and what they cost."""

from __future__ import annotations

from enum import StrEnum

import torch


class Precision(StrEnum):
    """Number format of weights and activations."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of this name."""
        return _DTYPES[self]

    @property
    def bytes(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize


_DTYPES = {
    Precision.FLOAT32: torch.float32,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.FLOAT16: torch.float16,
    Precision.FLOAT64: torch.float64,
}


def default_precision(device: torch.device) -> Precision:
    """bfloat16 on a GPU, float32 on a CPU."""
    return Precision.BFLOAT16 if device.type == "cuda" else Precision.FLOAT32
