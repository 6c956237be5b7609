"""Image processing: token counts, tiling, and what several cameras share."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from molmoact_ros.doctor.parity import PROCESSORS
from molmoact_ros.engine.model.image_processor import (
    ImageProcessor,
    denormalise,
    normalise,
    patches,
    pooled_indices,
    read_picture,
    scale_frame,
    stretch,
)
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import ImageTokens, TextCodec, sequence_ids

SIGLIP, CLIP = ImageProcessor(PROCESSORS[729]), ImageProcessor(PROCESSORS[576])


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "crops", "tokens", "tokens_o"),
    [
        (224, 224, 2, 424, 316), (320, 240, 2, 424, 316), (378, 378, 2, 424, 580), (512, 512, 5, 766, 580),
        (424, 240, 3, 550, 412), (640, 360, 3, 550, 740), (640, 480, 5, 766, 740), (848, 480, 7, 996, 900),
        (1280, 720, 9, 1203, 900),
    ],
)  # fmt: skip
def test_pictures_have_the_published_counts(width: int, height: int, crops: int, tokens: int, tokens_o: int) -> None:
    image = picture(width, height)
    made = SIGLIP([image])
    assert len(made.crop_of) == crops

    def length(processor: ImageProcessor) -> int:
        grids = processor([image]).grids
        return len(sequence_ids("", grids, lambda text: [], ImageTokens.after(1000), bos_id=0)) - 1

    assert (length(SIGLIP), length(CLIP)) == (tokens, tokens_o)


def test_the_same_crop_is_encoded_once() -> None:
    small, large = SIGLIP([picture(320, 240)]), SIGLIP([picture(640, 480)])
    assert len(small.crops) == 1 and small.crop_of.tolist() == [0, 0]
    assert len(large.crops) == 5
    whole, tile = small.indices[:196], small.indices[196:]
    np.testing.assert_array_equal(whole, tile)
    assert small.pooled_idx.max() == 2 * 729 - 1 and small.indices.max() == 728


def test_a_second_picture_comes_behind_the_first_and_its_missing_patches_too() -> None:
    """The released processor counts a missing patch of a later image as the patch before the image."""
    first, second = picture(320, 240), picture(640, 480, 1)
    both, alone = SIGLIP([first, second]), SIGLIP([second])
    np.testing.assert_array_equal(both.pooled_idx[392:], alone.pooled_idx + 2 * 729)
    assert both.grids == (((14, 14), (14, 14)), ((14, 14), (23, 23)))
    np.testing.assert_array_equal(both.crops[1:], alone.crops)
    assert both.pooled_idx.min() == -1 and both.indices[392:].min() == 728  # the last patch of the first picture


def test_two_cameras_make_the_published_prompt(qwen_codec: TextCodec) -> None:
    """One begin, twice the name and 424 tokens, then the text."""
    text = prompt("put the red cube in the blue bowl over there", 2)
    grids = SIGLIP([picture(320, 240), picture(320, 240, 1)]).grids
    ids = sequence_ids(text, grids, qwen_codec.encode, ImageTokens.after(152_064), bos_id=151_643)
    said = qwen_codec.encode(text)
    assert len(ids) == 1 + 2 * (3 + 424) + len(said) and 125 < len(said) < 140
    assert ids[:4].tolist() == [151_643, 1906, 220, 16] and ids[-len(said) :].tolist() == said
    assert ids[428:431].tolist() == [1906, 220, 17]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 900), st.integers(1, 900))
def test_every_size_is_tiled_without_gaps(width: int, height: int) -> None:
    for processor, patch_count in ((SIGLIP, 729), (CLIP, 576)):
        made = processor([picture(width, height)])
        crops = made.crops[made.crop_of]
        assert crops.shape[1:] == (patch_count, 588) and np.isfinite(crops).all()
        (whole, tiles), tile_patches = made.grids[0], made.pooled_idx
        assert len(tile_patches) == whole[0] * whole[1] + tiles[0] * tiles[1]
        shown = tile_patches[whole[0] * whole[1] :]
        shown = shown[shown >= 0]
        assert len(np.unique(shown)) == len(shown) and shown.min() >= patch_count
        assert tile_patches.max() < len(made.crop_of) * patch_count


def test_patches_keep_row_column_channel_order() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
    np.testing.assert_array_equal(patches(image, 2)[0, 0], image[0, :2, :2].ravel())


@pytest.mark.parametrize("mode", ["siglip", "openai"])
def test_pixels_come_back(mode: str) -> None:
    image = picture(28, 14)[None] / np.float32(255)
    np.testing.assert_allclose(denormalise(patches(normalise(image, mode), 14), mode), patches(image, 14), atol=1e-6)


def test_pooled_indices_of_an_odd_grid() -> None:
    index = pooled_indices(np.arange(729).reshape(27, 27))
    assert index.shape == (196, 4)
    assert index[0].tolist() == [0, 1, 27, 28]
    assert index[13].tolist() == [26, -1, 53, -1]
    assert index[-1].tolist() == [728, -1, -1, -1]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from([(378, 378), (644, 1176), (40, 300)]))
def test_stretching_is_torchs_to_the_last_bit(width: int, height: int, size: tuple[int, int]) -> None:
    """As it is with two threads, as the reference numbers were made."""
    image, threads = picture(width, height), torch.get_num_threads()
    torch.set_num_threads(2)
    pixels = torch.tensor(image).permute(2, 0, 1).unsqueeze(0).float()
    wanted = F.interpolate(pixels, size, mode="bilinear", antialias=False)[0].permute(1, 2, 0)
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(stretch(image, size), wanted.numpy())


def test_frames_are_scaled_for_the_robot() -> None:
    image = picture(640, 480)
    small = scale_frame(image, (320, 240))
    assert small.shape == (240, 320, 3) and abs(float(small.mean()) - float(image.mean())) < 1
    assert scale_frame(image, None) is image and scale_frame(small, (320, 240)) is small


@pytest.mark.parametrize(
    ("change", "why"), [({"base_image_input_size": (380, 380)}, "multiple"), ({"overlap_margins": (20, 7)}, "larger")]
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, tuple[int, int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ImageProcessor(PROCESSORS[729].model_copy(update=change))


def test_image_files_of_any_kind(tmp_path: Path) -> None:
    """Eight bits a channel in any mode are read, upright; the rest, and what is no image, is one line."""
    pixels = np.full((20, 30, 3), (204, 102, 51), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    for mode, suffix in (("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("L", "png"), ("CMYK", "jpg"), ("RGB", "webp")):
        file = tmp_path / f"{mode}.{suffix}"
        Image.fromarray(pixels).convert(mode).save(file)
        read = read_picture(file)
        assert read.shape == (20, 30, 3) and read.dtype == np.uint8
        expected = pixels if mode != "L" else np.full_like(pixels, 127)
        assert np.abs(read.astype(int) - expected).max() < 12, mode
    assert read_picture(tmp_path / "turned.png").shape == (30, 20, 3)

    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    start += bytes(4) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "huge.png").write_bytes(start)
    (tmp_path / "cut.png").write_bytes((tmp_path / "RGB.png").read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    for name, words in (("deep", "more than 8 bits a channel"), ("huge", "exceeds"), ("cut", ""), ("empty", "")):
        with pytest.raises(ValueError, match=f"{name}.png is not an image that can be read .*{words}") as refusal:
            read_picture(tmp_path / f"{name}.png")
        assert "\n" not in str(refusal.value)
