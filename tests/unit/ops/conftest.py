"""What tests of kernels share: buffers that show what was not written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def spoiled_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """New buffers start as NaN instead of whatever lay there: what is not written stays NaN."""

    def spoil(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def created(*args: object, **kwargs: object) -> Tensor:
            fresh = create(*args, **kwargs)
            return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

        return created

    for owner, name in ((Tensor, "new_empty"), (torch, "empty"), (torch, "empty_like")):
        monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))
