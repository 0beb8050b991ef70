"""LoRA in the language model through peft, which is asked for only here and only when wanted."""

from __future__ import annotations

from torch import nn

from timeviper.core.errors import ConfigError
from timeviper.model.decoder import Decoder


def add_adapters(decoder: Decoder, *, rank: int, alpha: float | None = None) -> None:
    """Put a low-rank product beside every linear layer of the blocks; it starts at nothing.

    Args:
        decoder: changed in place. The head, embeddings and transfer modules stay as they are.
        rank: width of the product.
        alpha: its scale is `alpha / rank`; twice the rank when not given.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            want="the package peft for adapters",
            got=str(error),
            do="pip install 'timeviper[train]'",
        ) from None
    leaves = {
        name.rpartition(".")[2]
        for name, module in decoder.layers.named_modules()
        if isinstance(module, nn.Linear)
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # pyright: ignore[reportArgumentType]
        target_modules=rf"layers\..*\.({'|'.join(sorted(leaves))})",
    )
    inject_adapter_in_model(config, decoder)


def merge_adapters(decoder: Decoder) -> None:
    """Add what the adapters learned to the weights beside them and take them out again.

    Args:
        decoder: changed in place; afterwards its parameters have their usual names.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(decoder.named_modules()):
        if isinstance(module, BaseTunerLayer) and isinstance(module, nn.Module):
            module.merge()
            path, _, leaf = name.rpartition(".")
            decoder.get_submodule(path).register_module(leaf, module.get_base_layer())
