"""Seconds of each stage of a load, from what one machine was measured to take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timeviper.inference.planning.advice import Load
from timeviper.inference.planning.calibration import Rates
from timeviper.model.config import DecoderConfig, DropPolicy
from timeviper.model.pattern import LayerKind


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Seconds that each stage keeps a device, or one core of a CPU, busy.

    Args:
        tower: all frames through vision tower and projector.
        prefill: the video through the decoder.
        question: from a question to its first token.
        token: each further token of the answer.
        video: decoding an hour of 720p video; None where not measured.
        reading: tower and prefill together, by all cores.
    """

    tower: float
    prefill: float
    question: float
    token: float
    video: float | None
    reading: float


def reckon(load: Load, rates: Rates) -> Seconds:
    """Seconds of a load.

    Args:
        load: what is asked.
        rates: of the model on the machine.
    """
    decoder = load.config.decoder
    vision = load.frames * load.config.tokens_per_frame
    text = int(load.frames * load.setting.text_per_frame) + load.setting.prefix
    walk = _Walk(decoder, rates, question=load.setting.question)
    prefill = walk.read(vision, text)
    question = walk.ask()
    tower = load.frames * rates.frame if load.setting.tower else 0.0
    return Seconds(
        tower=tower * load.batch,
        prefill=prefill * load.batch,
        question=question * load.batch + rates.head,
        token=walk.step() + rates.head,
        video=None if rates.video is None else 3600 * rates.video,
        reading=(tower + prefill) * load.batch / rates.cores,
    )


class _Walk:
    """One video, one question, one step, layer by layer; keeps what each layer holds."""

    def __init__(self, config: DecoderConfig, rates: Rates, *, question: int) -> None:
        self._config, self._rates, self._question = config, rates, question
        self._sites = {site.layer: site for site in config.transfer.sites}
        self._keys = [0] * len(config.layers)
        self._waiting: tuple[int, int] | None = None
        width = config.num_heads * config.head_dim
        kv = config.num_kv_heads * config.head_dim
        # A dropped token passes two of an attention layer's four products.
        self._share = kv / (width + kv)

    def read(self, vision: int, text: int) -> float:
        """Seconds of a video."""
        total = 0.0
        for index in range(len(self._config.layers)):
            site = self._sites.get(index)
            if site is not None and site.policy is not DropPolicy.UNIFORM_STREAM:
                self._waiting = (vision, text)
                break
            if site is not None:
                total += self._dropping(vision - site.kept(vision), transfer=site.transfer)
                vision = site.kept(vision)
            total += self._layer(index, vision + text)
        return total

    def ask(self) -> float:
        """Seconds of a question up to its first scores."""
        total, vision, text = 0.0, 0, 0
        for index, kind in enumerate(self._config.layers):
            site = self._sites.get(index)
            if site is not None and site.policy is not DropPolicy.UNIFORM_STREAM:
                if self._waiting is not None:
                    (vision, text), self._waiting = self._waiting, None
                if site.policy is DropPolicy.ATTENTION:
                    total += self._dropping(vision + text, transfer=True)
            if site is not None and vision:
                total += self._dropping(vision - site.kept(vision), transfer=site.transfer)
                vision = site.kept(vision)
            rate, keys = self._rates.of(kind), self._keys[index]
            total += rate.few + rate.pair * self._question * keys
            total += self._layer(index, vision + text)
            self._keys[index] += self._question
        return total

    def step(self) -> float:
        """Seconds of one token."""
        rates = [self._rates.of(kind) for kind in self._config.layers]
        return sum(r.step + r.key * keys for r, keys in zip(rates, self._keys, strict=True))

    def _layer(self, index: int, tokens: int) -> float:
        """Tokens through a layer, each behind all before it."""
        rate = self._rates.of(self._config.layers[index])
        seconds = rate.token * tokens + rate.pair * tokens * (self._keys[index] + tokens / 2)
        if self._config.layers[index] is LayerKind.ATTENTION:
            self._keys[index] += tokens
        return seconds

    def _dropping(self, tokens: int, *, transfer: bool) -> float:
        return self._rates.attention.token * self._share * tokens if transfer else 0.0


def told(load: Load, rates: Rates | None) -> dict[str, Any]:
    """Seconds as plain values, with where they come from.

    Args:
        load: what is asked.
        rates: of the model on the machine; None where nothing was measured.
    """
    if rates is None:
        words = "not measured here: add --calibrate, on the machine that will run it"
        return {"from": words, "stages": {}}
    found = reckon(load, rates)
    stages = {
        "video": found.video,
        "tower": found.tower,
        "prefill": found.prefill,
        "reading": found.reading,
        "question": found.question,
        "token": found.token,
    }
    return {"from": f"measured on {rates.device}, torch {rates.torch}", "stages": stages}
