"""First weights: as Nemotron-H and SigLIP start, and transfer modules copied from attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block
from timeviper.model.decoder import Decoder
from timeviper.model.mamba2 import DepthwiseConv, Mamba2Mixer, ScaleNorm
from timeviper.model.pattern import LayerKind
from timeviper.model.transv import Transfer

TIME_STEP_MIN, TIME_STEP_MAX, TIME_STEP_FLOOR = 1e-3, 1e-1, 1e-4


@torch.no_grad()
def init_decoder(decoder: Decoder, generator: torch.Generator) -> None:
    """Fill a decoder's parameters in place.

    Normal(0, initializer_range) for matrices, outputs of residual branches scaled by
    1/sqrt(layers); Mamba-2 A in 1..heads, D = 1, dt log-uniform in [1e-3, 1e-1].
    """
    std = decoder.config.initializer_range
    for module in decoder.modules():
        _init_one(module, std, generator)
    for layer in decoder.layers:
        _scale_output(layer, 1 / math.sqrt(len(decoder.layers)))
    init_transfers(decoder)


@torch.no_grad()
def init_transfers(decoder: Decoder) -> None:
    """Copy each transfer module from the nearest attention layer at or after its site; alpha = 0.

    A site after the last attention layer takes that last one.
    """
    attention = decoder.config.layers_of(LayerKind.ATTENTION)
    for name, transfer in decoder.transfers.items():
        source = next((i for i in attention if i >= int(name)), attention[-1])
        block = decoder.layers[source]
        if not (isinstance(transfer, Transfer) and isinstance(block, Block)):
            raise TypeError("transfers are Transfer modules and layers are Blocks")
        mixer = block.mixer
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            own, other = transfer.get_submodule(part), mixer.get_submodule(part)
            own.load_state_dict(other.state_dict())
        transfer.alpha.zero_()


@torch.no_grad()
def init_linear(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Normal weights and zero biases of every linear layer inside `module`."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            _init_one(part, std, generator)


def _init_one(module: nn.Module, std: float, generator: torch.Generator) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        module.weight.normal_(0, std, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, ScaleNorm):
        module.weight.fill_(1)
    elif isinstance(module, DepthwiseConv):
        bound = 1 / math.sqrt(module.weight.shape[1])
        module.weight.uniform_(-bound, bound, generator=generator)
        if module.bias is not None:
            module.bias.uniform_(-bound, bound, generator=generator)
    elif isinstance(module, Mamba2Mixer):
        _init_mamba(module, generator)


def _init_mamba(mixer: Mamba2Mixer, generator: torch.Generator) -> None:
    heads = mixer.sizes.num_heads
    mixer.A_log.copy_(torch.arange(1, heads + 1, device=mixer.A_log.device).log())
    mixer.D.fill_(1)
    low, high = math.log(TIME_STEP_MIN), math.log(TIME_STEP_MAX)
    dt = torch.empty_like(mixer.dt_bias).uniform_(low, high, generator=generator).exp()
    mixer.dt_bias.copy_(_inverse_softplus(dt.clamp(min=TIME_STEP_FLOOR)))


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


def _scale_output(layer: nn.Module, factor: float) -> None:
    if not isinstance(layer, Block):
        return
    match layer.mixer:
        case Mamba2Mixer() as mixer:
            output = mixer.out_proj
        case AttentionMixer() as mixer:
            output = mixer.o_proj
        case mixer:
            output = mixer.get_submodule("down_proj")
    output.get_parameter("weight").mul_(factor)
