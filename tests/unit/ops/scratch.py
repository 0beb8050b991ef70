"""Memory as an op may get it: full of NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


def fill_scratch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let `torch.empty` and `torch.empty_like` return NaN; the sizes asked for, as they come."""
    plain, made = torch.empty, list[int]()

    def empty(*shape: Any, **options: Any) -> Tensor:
        buffer = plain(*shape, **options)
        if buffer.is_floating_point():
            made.append(buffer.numel())
            buffer.fill_(torch.nan)
        return buffer

    def empty_like(like: Tensor, **options: Any) -> Tensor:
        return empty(like.shape, **{"dtype": like.dtype, "device": like.device, **options})

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "empty_like", empty_like)
    return made
