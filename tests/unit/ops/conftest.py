"""What tests of kernels share: buffers that show what was not written, loops that can count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


@pytest.fixture
def loops_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let interpreted loops read their length: NumPy 2.4 makes no int of an array of one value."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    plain = interpreter._patch_lang_tensor

    def patch(tensor: type, scope: Any) -> None:
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)
