"""How fast this machine is for one model: measured once in a few seconds, kept for plans."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from timeviper.core.config import from_dict, to_dict
from timeviper.core.device import pick_device
from timeviper.core.errors import ConfigError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.inference.lookahead import one_thread_an_op
from timeviper.model.config import TimeViperConfig, TransferPlan
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.pattern import LayerKind
from timeviper.model.state import AttentionMemory, DecoderState, extend
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper

# Tokens of a question, and keys that a long cache holds while it is measured.
_FEW = 64
_LONG = {"cuda": 65536, "cpu": 2048}
_CHUNK = {"cuda": 4096, "cpu": 384}
_FRAMES = {"cuda": 64, "cpu": 4}
_COPIED = {"cuda": 2**30, "cpu": 2**26}
_SQUARE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True, kw_only=True)
class LayerRate:
    """Seconds of one layer.

    Args:
        token: of each token in a long call.
        few: of a call of 64 tokens, as long as a question.
        step: of a call of one token.
        pair: of each token and key beyond the call's own, in an attention layer.
        key: of each key in a step of an attention layer.
    """

    token: float
    few: float
    step: float
    pair: float = 0.0
    key: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured on a device, for one model.

    Args:
        device: its name.
        torch: version.
        precision: of weights and activations.
        copy: bytes a second, reading and writing both counted.
        product: floating-point operations a second of a large matrix product.
        mamba: seconds of such layers; all 0 where the model has none, as below.
        attention: seconds of attention layers.
        mlp: seconds of MLP layers.
        head: seconds of one row of scores.
        frame: seconds of a frame in vision tower and projector.
        video: seconds of decoding a second of 720p video, by all cores; None where not measured.
        cores: threads that worked side by side.
    """

    device: str
    torch: str
    precision: Precision
    copy: float
    product: float
    mamba: LayerRate
    attention: LayerRate
    mlp: LayerRate
    head: float
    frame: float
    video: float | None = None
    cores: int = 1

    def of(self, kind: LayerKind) -> LayerRate:
        """The rate of a kind of layer."""
        return {
            LayerKind.MAMBA: self.mamba,
            LayerKind.ATTENTION: self.attention,
            LayerKind.MLP: self.mlp,
        }[kind]


def rates_file() -> Path:
    """Where measured rates are kept: below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "timeviper" / "rates.json"


def known_rates(
    config: TimeViperConfig, precision: Precision, device: torch.device, *, file: Path | None = None
) -> Rates | None:
    """Rates measured earlier for this model on this machine; None where there are none.

    Args:
        config: the model; its transfer sites do not matter.
        precision: of weights and activations.
        device: where it will run.
        file: where they are kept, if not in the user's cache.
    """
    record = _read(file or rates_file()).get(_key(config, precision, device_name(device)))
    try:
        return None if record is None else from_dict(Rates, record)
    except ConfigError:
        # Of another version of this program: as if never measured.
        return None


def keep_rates(config: TimeViperConfig, rates: Rates, *, file: Path | None = None) -> Path:
    """Keep rates for later plans.

    Args:
        config: the model they are of.
        rates: as measured.
        file: where, if not in the user's cache.

    Returns:
        The file.
    """
    path = file or rates_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    key = _key(config, rates.precision, rates.device)
    text = json.dumps(_read(path) | {key: to_dict(rates)}, indent=1)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def device_name(device: torch.device) -> str:
    """What a device is called in the record of its rates."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of a CPU"


@torch.inference_mode()
def measure_rates(
    config: TimeViperConfig, precision: Precision, *, device: str | None = None
) -> Rates:
    """Measure this machine with layers of a model's sizes and random weights.

    Args:
        config: the model.
        precision: of weights and activations.
        device: where; None takes CUDA where present.

    Returns:
        The rates; `video` is not among them.
    """
    place = pick_device(device)
    bench = _Bench(config, precision, place)
    # As the engine runs a small model on a CPU: one thread an operation, cores side by side.
    with one_thread_an_op(place.type == "cpu"):
        layers = {kind: bench.layer(kind) for kind in LayerKind}
        return Rates(
            device=device_name(place),
            torch=torch.__version__,
            precision=precision,
            copy=bench.copy(),
            product=bench.product(),
            mamba=layers[LayerKind.MAMBA],
            attention=layers[LayerKind.ATTENTION],
            mlp=layers[LayerKind.MLP],
            head=bench.head(),
            frame=bench.frame(),
            cores=1 if place.type == "cuda" else os.cpu_count() or 1,
        )


class _Bench:
    """Timed runs of parts of one model."""

    def __init__(self, config: TimeViperConfig, precision: Precision, device: torch.device) -> None:
        self._config, self._dtype, self._device = config, precision.dtype, device
        self._chunk, self._long = _CHUNK[device.type], _LONG[device.type]

    def layer(self, kind: LayerKind) -> LayerRate:
        """One layer: what three take beyond one, halved, so that all around them cancels."""
        if not self._config.decoder.layers_of(kind):
            return LayerRate(token=0.0, few=0.0, step=0.0)
        one, three = (self._decoder(kind.value * count) for count in (1, 3))

        def each(tokens: int, keys: int) -> float:
            spent = [self._through(decoder, tokens, keys) for decoder in (one, three)]
            return max(0.0, spent[1] - spent[0]) / 2

        whole, few, step = (each(tokens, _FEW) for tokens in (self._chunk, _FEW, 1))
        pair = key = 0.0
        if kind is LayerKind.ATTENTION:
            more = self._long - _FEW
            pair = max(0.0, each(self._chunk, self._long) - whole) / (self._chunk * more)
            key = max(0.0, each(1, self._long) - step) / more
        return LayerRate(token=whole / self._chunk, few=few, step=step, pair=pair, key=key)

    def head(self) -> float:
        """Scores of one token."""
        decoder = self._decoder(LayerKind.MLP.value)
        row = self._random(1, self._config.decoder.hidden_size)
        return self._seconds(lambda: decoder.logits(row))

    def frame(self) -> float:
        """A frame in tower and projector: two blocks beyond one tell what each block takes."""
        used, frames = self._config.vision.used_layers, _FRAMES[self._device.type]
        side = self._config.vision.image_size
        pixels = self._random(frames, 3, side, side)
        spent: list[float] = []
        for blocks in (1, 3):
            model = self._eyes(blocks)
            spent.append(self._seconds(lambda model=model: model.encode_frames(pixels)))
        return max(spent[0], spent[0] + (used - 1) * (spent[1] - spent[0]) / 2) / frames

    def copy(self) -> float:
        """Bytes a second of a long copy."""
        source = self._random(_COPIED[self._device.type] // self._dtype.itemsize)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self._seconds(lambda: target.copy_(source))

    def product(self) -> float:
        """Operations a second of a square product."""
        size = _SQUARE[self._device.type]
        a, b = self._random(size, size), self._random(size, size)
        return 2 * size**3 / self._seconds(lambda: a @ b)

    def _through(self, decoder: Decoder, tokens: int, keys: int) -> float:
        layout = TokenLayout.of((SpanKind.TEXT, tokens))
        x = self._random(tokens, self._config.decoder.hidden_size)
        state = self._past(decoder, keys)
        return self._seconds(lambda: decoder.run(Tokens.of(x, layout), state))

    def _past(self, decoder: Decoder, keys: int) -> DecoderState:
        """A state in which attention layers hold so many keys, with room for a call."""
        layout = TokenLayout.of((SpanKind.TEXT, 1))
        x = self._random(1, self._config.decoder.hidden_size)
        state = decoder.run(Tokens.of(x, layout))[1]
        longer: list[object] = []
        for memory in state.memories:
            if isinstance(memory, AttentionMemory):
                roomy = memory.reserve(keys + self._chunk)
                rows = self._random(keys - 1, *memory.k.shape[2:])
                longer.append(extend(roomy, rows, rows, lengths=(keys - 1,)))
            else:
                longer.append(memory)
        return replace(state, memories=tuple(longer))

    def _decoder(self, pattern: str) -> Decoder:
        config = replace(self._config.decoder, pattern=pattern, transfer=TransferPlan())
        with torch.device("meta"):
            decoder = Decoder(config)
        decoder = decoder.to(self._dtype).to_empty(device=self._device).eval()
        init_decoder(decoder, torch.Generator(self._device).manual_seed(0))
        return decoder.requires_grad_(requires_grad=False)

    def _eyes(self, blocks: int) -> TimeViper:
        vision = replace(self._config.vision, num_layers=blocks, feature_layer=-1)
        words = replace(self._config.decoder, pattern=LayerKind.MLP.value, transfer=TransferPlan())
        with torch.device(self._device):
            model = TimeViper(replace(self._config, vision=vision, decoder=words))
        for part in (model.vision, model.projector):
            init_linear(part, 0.02, torch.Generator(self._device).manual_seed(0))
        return model.to(self._dtype).eval().requires_grad_(requires_grad=False)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self._device, dtype=self._dtype)

    def _seconds(self, run: Callable[[], object], *, rounds: int = 3) -> float:
        """Median of single runs, the first left out."""
        spent: list[float] = []
        for _ in range(rounds + 1):
            self._wait()
            began = time.perf_counter()
            run()
            self._wait()
            spent.append(time.perf_counter() - began)
        return statistics.median(spent[1:])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _key(config: TimeViperConfig, precision: Precision, device: str) -> str:
    bare = replace(config, name="", decoder=replace(config.decoder, transfer=TransferPlan()))
    sizes = hashlib.sha256(json.dumps(to_dict(bare), sort_keys=True).encode()).hexdigest()[:12]
    return f"{device} | torch {torch.__version__} | {precision} | {sizes}"


def _read(path: Path) -> dict[str, dict[str, object]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
