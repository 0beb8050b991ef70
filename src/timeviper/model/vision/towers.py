"""The table of vision towers; a new tower is one line."""

from __future__ import annotations

from timeviper.model.config import VisionConfig
from timeviper.model.vision.siglip import Siglip2Tower, SiglipTower
from timeviper.model.vision.tower import VisionTower

TOWERS: dict[str, type[VisionTower]] = {
    "siglip": SiglipTower,
    "siglip2": Siglip2Tower,
}


def build_tower(config: VisionConfig) -> VisionTower:
    """The tower that a config describes, with uninitialised or transformers-initialised weights."""
    return TOWERS[config.tower](config)
