"""Turn decoded frames into what a vision tower reads: one size, scaled, centred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from timeviper.core.config import from_dict
from timeviper.core.errors import ConfigError


class Resize(StrEnum):
    """How a frame of another shape meets the square."""

    # Both sides to the size, the aspect ratio is lost; what the paper's code does.
    NAIVE = "naive"
    # The largest centred square.
    CROP = "crop"
    # The whole frame, with bars of the mean colour.
    LETTERBOX = "letterbox"


class Resample(StrEnum):
    """Interpolation; both are antialiased when they shrink."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"


# Numbers of these filters in Pillow, which preprocessor_config.json uses.
_PILLOW_NUMBER = {Resample.BILINEAR: 2, Resample.BICUBIC: 3}
# Keys that other tools write and that change nothing here; the value they must have, if any.
_FOREIGN_KEYS: dict[str, tuple[Any, ...]] = {
    "image_processor_type": (),
    "feature_extractor_type": (),
    "processor_class": (),
    "data_format": (),
    "do_convert_rgb": (),
    "do_center_crop": (False, None),
    "default_to_square": (True, None),
}


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Size and scale of the frames a vision tower was taught on.

    Args:
        size: side of the square in pixels.
        image_mean: subtracted from each channel after scaling.
        image_std: divides each channel after that.
        rescale_factor: brings 0-255 to the range of the mean.
        do_resize: False refuses frames of another size.
        do_normalize: False leaves mean and deviation out.
        resize: what happens to other aspect ratios.
        resample: interpolation.
    """

    size: int
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_normalize: bool = True
    resize: Resize = Resize.NAIVE
    resample: Resample = Resample.BICUBIC

    def __post_init__(self) -> None:
        """Refuse sizes and scales that mean nothing."""
        if self.size < 1 or min(self.image_std) <= 0 or self.rescale_factor <= 0:
            raise ConfigError(
                want="size, image_std and rescale_factor above zero",
                got=f"{self.size}, {self.image_std}, {self.rescale_factor}",
                do="correct preprocessor_config.json",
            )

    @classmethod
    def from_preprocessor(cls, data: Mapping[str, Any]) -> ImageConfig:
        """Read the content of a `preprocessor_config.json`.

        Raises:
            ConfigError: an unknown key, or a setting that is not done here.
        """
        values = dict(data)
        for key, allowed in _FOREIGN_KEYS.items():
            found = values.pop(key, None)
            if allowed and found not in allowed:
                raise _unsupported(key, found, f"one of {allowed}")
        if values.pop("do_rescale", True) is not True:
            raise _unsupported("do_rescale", False, "true")
        values["size"] = _side(values.get("size"))
        if "resample" in values:
            numbers = {number: name.value for name, number in _PILLOW_NUMBER.items()}
            if values["resample"] not in numbers:
                raise _unsupported("resample", values["resample"], "2 (bilinear) or 3 (bicubic)")
            values["resample"] = numbers[values["resample"]]
        return from_dict(cls, values, where="preprocessor_config.json")

    def to_preprocessor(self) -> dict[str, Any]:
        """The content of a `preprocessor_config.json`; `from_preprocessor` reads it back."""
        return {
            "do_normalize": self.do_normalize,
            "do_rescale": True,
            "do_resize": self.do_resize,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "resample": _PILLOW_NUMBER[self.resample],
            "rescale_factor": self.rescale_factor,
            "resize": self.resize.value,
            "size": {"height": self.size, "width": self.size},
        }


def prepare_frames(
    frames: UInt8[np.ndarray, "frame height width 3"], config: ImageConfig
) -> Float[Tensor, "frame 3 size size"]:
    """Frames as the tower reads them.

    Args:
        frames: decoded RGB frames.
        config: of the tower.

    Returns:
        float32 pixels; frames that already have the size are not resampled.

    Raises:
        ConfigError: frames of another size where resizing is off.
    """
    # Torch takes no read-only or reversed arrays; others are shared, not copied.
    return prepare(torch.from_numpy(np.require(frames, requirements=["C", "W"])), config)


def prepare(
    frames: UInt8[Tensor, "frame height width 3"], config: ImageConfig
) -> Float[Tensor, "frame 3 size size"]:
    """As `prepare_frames`, for frames that are where the tower is: a quarter of the bytes travel.

    Args:
        frames: decoded RGB frames, on any device.
        config: of the tower.

    Returns:
        float32 pixels on the same device, those of `prepare_frames`.

    Raises:
        ConfigError: frames of another size where resizing is off.
    """
    pixels = square_frames(frames, config).permute(0, 3, 1, 2)
    scaled = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    scaled = scaled.mul_(config.rescale_factor)
    if not config.do_normalize:
        return scaled
    # Numbers, not tensors: a GPU would be waited for to give it six of them.
    for channel, (mean, std) in enumerate(zip(config.image_mean, config.image_std, strict=True)):
        scaled[:, channel].sub_(mean).div_(std)
    return scaled


def square_frames(
    frames: UInt8[Tensor, "frame height width 3"], config: ImageConfig
) -> UInt8[Tensor, "frame size size 3"]:
    """Frames of the tower's size, still a byte a value: small enough to be carried elsewhere.

    Args:
        frames: decoded RGB frames, on any device that resamples bytes; a GPU does not.
        config: of the tower.

    Returns:
        The same tensor where it has the size already.

    Raises:
        ConfigError: frames of another size where resizing is off.
    """
    if frames.shape[1:3] == (config.size, config.size):
        return frames
    if not config.do_resize:
        raise ConfigError(
            want=f"frames of {config.size}x{config.size} pixels",
            got=f"{frames.shape[2]}x{frames.shape[1]}",
            do="decode at that size or set do_resize",
        )
    return _square(frames.permute(0, 3, 1, 2), config).permute(0, 2, 3, 1)


def _square(
    pixels: UInt8[Tensor, "frame 3 height width"], config: ImageConfig
) -> UInt8[Tensor, "frame 3 size size"]:
    height, width = pixels.shape[-2:]
    size = config.size
    if config.resize is Resize.NAIVE:
        return _interpolate(pixels, size, size, config.resample)
    if config.resize is Resize.CROP:
        # Cropped before it is resized: a strip of 1 x 16,000 never becomes a wall.
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pixels[..., top : top + side, left : left + side]
        return _interpolate(square, size, size, config.resample)
    longest = max(height, width)
    inner_height = max(1, round(size * height / longest))
    inner_width = max(1, round(size * width / longest))
    inner = _interpolate(pixels, inner_height, inner_width, config.resample)
    level = torch.tensor(config.image_mean).div(config.rescale_factor).round().clamp(0, 255)
    level = level.to(pixels.device, torch.uint8).view(1, 3, 1, 1)
    canvas = level.repeat(len(pixels), 1, size, size)
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    canvas[..., top : top + inner_height, left : left + inner_width] = inner
    return canvas


def _interpolate(
    pixels: UInt8[Tensor, "frame 3 height width"], height: int, width: int, resample: Resample
) -> UInt8[Tensor, "frame 3 new_height new_width"]:
    # In eight bits: a quarter of the memory, and rounded as Pillow does.
    if len(pixels) == 0 or pixels.shape[-2:] == (height, width):
        return pixels.new_empty(0, 3, height, width) if len(pixels) == 0 else pixels
    size, mode = (height, width), resample.value
    if pixels.device.type == "cpu":
        return F.interpolate(pixels, size, mode=mode, antialias=True)
    # A GPU has no filters of eight bits.
    wide = F.interpolate(pixels.float(), size, mode=mode, antialias=True)
    return wide.round_().clamp_(0, 255).to(torch.uint8)


def _side(size: object) -> int:
    sides = {size} if isinstance(size, int) else set()
    if isinstance(size, Mapping):
        sides = set(cast("Mapping[str, Any]", size).values())
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or isinstance(side, bool):
        raise ConfigError(
            want="size as one number or equal height and width",
            got=size,
            do="correct preprocessor_config.json",
        )
    return side


def _unsupported(key: str, got: object, want: str) -> ConfigError:
    return ConfigError(
        want=f"{key} in preprocessor_config.json to be {want}", got=got, do="remove or change it"
    )
