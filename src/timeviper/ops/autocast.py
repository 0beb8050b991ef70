"""Leave autocast for a stretch of code whose casts are all on purpose."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def as_written(like: Tensor) -> AbstractContextManager[object]:
    """A `with` block in which operations keep the dtypes of their operands.

    Args:
        like: a tensor on the device that is computed on; one without data knows no autocast.

    Returns:
        The block.
    """
    if like.is_meta:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)
