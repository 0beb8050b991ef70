"""Frames for the tower: sizes, scales, three ways to a square, and the file that says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.processing.image import (
    ImageConfig,
    Resample,
    Resize,
    prepare,
    prepare_frames,
    square_frames,
)


def noise(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Back to 0-255 with the default scale."""
    return (pixels * 0.5 + 0.5) * 255


def test_frames_of_the_right_size_are_only_scaled():
    frames = noise(3, 16, 16)
    got = prepare_frames(frames, ImageConfig(size=16))
    want = (frames.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    assert (got.dtype, got.shape, got.is_contiguous()) == (torch.float32, (3, 3, 16, 16), True)
    close("pixels", got=got, want=want, tol=TOL.vision.f32)


def test_the_frames_themselves_are_left_alone():
    frames = noise(1, 16, 16)
    before = frames.copy()
    prepare_frames(frames, ImageConfig(size=16))
    np.testing.assert_array_equal(frames, before)


def test_read_only_and_mirrored_frames_are_taken():
    frames = noise(2, 16, 16)
    want = prepare_frames(frames[:, ::-1].copy(), ImageConfig(size=16))
    assert torch.equal(prepare_frames(frames[:, ::-1], ImageConfig(size=16)), want)
    frames.flags.writeable = False
    prepare_frames(frames, ImageConfig(size=16))


@pytest.mark.parametrize("resample", list(Resample))
@pytest.mark.parametrize(("height", "width"), [(64, 96), (20, 17), (1, 1), (3, 200)])
def test_resizing_is_pillows(resample, height, width):
    frames = noise(2, height, width)
    got = levels(prepare_frames(frames, ImageConfig(size=24, resample=resample)))
    number = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    for frame, mine in zip(frames, got, strict=True):
        oracle = np.asarray(Image.fromarray(frame).resize((24, 24), number[resample.value]))
        # Both round to whole levels between the two passes; one level of 255 is a rounding.
        assert np.abs(mine.numpy().transpose(1, 2, 0) - oracle.astype(np.float32)).max() <= 1.01


def test_mean_deviation_and_factor_are_applied():
    frames = np.full((1, 4, 4, 3), 100, dtype=np.uint8)
    config = ImageConfig(
        size=4, image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 2.0, 4.0), rescale_factor=0.01
    )
    got = prepare_frames(frames, config)[0, :, 0, 0]
    close("channels", got=got, want=[0.9, 0.4, 0.175], tol=TOL.vision.f32)
    plain = prepare_frames(frames, ImageConfig(size=4, do_normalize=False))
    close("unit range", got=plain.mean().item(), want=100 / 255, tol=TOL.vision.f32)


def test_a_crop_is_the_middle():
    frames = np.zeros((1, 10, 30, 3), dtype=np.uint8)
    frames[:, :, 10:20] = 255
    got = prepare_frames(frames, ImageConfig(size=5, resize=Resize.CROP))
    assert torch.equal(got, torch.ones(1, 3, 5, 5))


def test_a_letterbox_shows_all_between_bars_of_the_mean():
    frames = np.full((1, 10, 40, 3), 255, dtype=np.uint8)
    got = prepare_frames(frames, ImageConfig(size=8, resize=Resize.LETTERBOX))
    assert torch.equal(got[:, :, 3:5], torch.ones(1, 3, 2, 8))
    bars = torch.cat([got[:, :, :3], got[:, :, 5:]], dim=2)
    # The mean 0.5 is 127.5 levels: rounded to one of its neighbours.
    assert bars.abs().max() <= 1 / 255 + 1e-6


@given(
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(list(Resize)),
    st.integers(1, 20),
)
def test_law_any_frames_become_squares_in_range(frames, height, width, resize, size):
    got = prepare_frames(noise(frames, height, width), ImageConfig(size=size, resize=resize))
    assert got.shape == (frames, 3, size, size)
    if frames:
        assert got.abs().max() <= 1


@pytest.mark.parametrize("resize", list(Resize))
def test_a_strip_needs_no_wall_of_memory(resize):
    got = prepare_frames(noise(1, 1, 16_000), ImageConfig(size=32, resize=resize))
    assert got.shape == (1, 3, 32, 32)


def test_another_size_is_refused_where_resizing_is_off():
    with pytest.raises(ConfigError, match="got 10x12"):
        prepare_frames(noise(1, 12, 10), ImageConfig(size=12, do_resize=False))


CONFIGS = st.builds(
    ImageConfig,
    size=st.integers(1, 1000),
    image_mean=st.tuples(*[st.floats(0, 1)] * 3),
    do_resize=st.booleans(),
    do_normalize=st.booleans(),
    resize=st.sampled_from(list(Resize)),
    resample=st.sampled_from(list(Resample)),
)


@given(CONFIGS)
def test_law_a_config_survives_its_file(config):
    assert ImageConfig.from_preprocessor(config.to_preprocessor()) == config


def test_the_file_of_a_siglip_tower_is_read():
    config = ImageConfig.from_preprocessor(
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 384, "width": 384},
        }
    )
    assert config == ImageConfig(size=384)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sise": 3}, "unknown key 'sise'"),
        ({"size": {"height": 3, "width": 4}}, "equal height and width"),
        ({"size": {"shortest_edge": True}}, "equal height and width"),
        ({"size": None}, "equal height and width"),
        ({"size": 0}, "above zero"),
        ({"resample": 0}, "bilinear"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"image_std": [0.5, 0.0, 0.5]}, "above zero"),
        ({"image_mean": [0.5]}, "3 values"),
        ({"resize": "stretch"}, "one of naive, crop, letterbox"),
    ],
)
def test_settings_that_are_not_done_are_refused(change, message):
    data = ImageConfig(size=8).to_preprocessor()
    with pytest.raises(ConfigError, match=message):
        ImageConfig.from_preprocessor({**data, **change})


@pytest.mark.parametrize("resize", list(Resize))
def test_squares_prepared_elsewhere_are_the_frames_prepared_here(resize):
    config = ImageConfig(size=8, resize=resize)
    frames = np.random.default_rng(0).integers(0, 256, (2, 12, 17, 3), dtype=np.uint8)
    squares = square_frames(torch.from_numpy(frames), config)
    assert squares.dtype == torch.uint8
    assert squares.shape == (2, 8, 8, 3)
    assert torch.equal(prepare(squares, config), prepare_frames(frames, config))
    # What has the size is not copied.
    assert square_frames(squares, config) is squares
