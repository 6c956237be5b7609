"""Depth tokens: holes of measured depth, and Depth Anything through transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
)

from molmoact_ros.datasets.labelling.depth_labels import (
    NO_DEPTH,
    UNKNOWN,
    GuessedDepth,
    MeasuredDepth,
    fill_holes,
    relative_picture,
)
from molmoact_ros.engine.model.depth_vq import DepthVq


@pytest.fixture(scope="module")
def vq() -> DepthVq:
    torch.manual_seed(0)
    return DepthVq(hidden=4, dim=8, codes=128).eval()


def test_a_small_hole_takes_the_farthest_depth_around_it() -> None:
    depth = np.full((40, 60), 2.0, np.float32)
    depth[:, :20] = 0.8  # an edge, with a shadow beside it
    depth[10:14, 20:22] = 0.0
    depth[30, 5], depth[31, 5] = np.nan, np.inf
    depth[0, 0] = -1.0
    filled = fill_holes(depth)
    assert (filled.depth[10:14, 20:22] == 2.0).all() and (filled.depth[30:32, 5] == np.float32(0.8)).all()
    assert filled.depth[0, 0] == np.float32(0.8)
    assert filled.filled == pytest.approx(11 / 2400) and filled.unknown == 0
    assert np.isnan(depth[30, 5]), "what was measured is not changed"


def test_a_large_hole_stays_unknown() -> None:
    depth = np.full((40, 60), 2.0, np.float32)
    depth[:6, :6] = 0.0  # 1.5 % of the image
    filled = fill_holes(depth)
    assert (filled.depth[:6, :6] == 0).all() and filled.unknown == pytest.approx(36 / 2400) and filled.filled == 0
    assert fill_holes(np.zeros((4, 4), np.float32)).unknown == 1


def test_measured_depth_has_tokens_where_most_of_it_is_known(vq: DepthVq) -> None:
    image, labeller = np.zeros((48, 64, 3), np.uint8), MeasuredDepth(vq)
    depth = np.linspace(0.5, 2, 48 * 64, dtype=np.float32).reshape(48, 64)
    np.testing.assert_array_equal(labeller.label(image, depth), vq.encode_depth(depth))
    assert labeller.summary() == "depth tokens of 1 frames from measured depth; there were no holes to fill"
    depth[:25] = 0
    assert labeller.label(image, depth) == UNKNOWN and labeller.label(image, None) == NO_DEPTH
    depth[25:] = 1.0
    depth[30, 3] = depth[:25] = 2.0
    depth[40, 5] = 0
    labeller.label(image, depth)
    assert "holes were filled in 1 of them: 0.03% of their pixels, at most 0.03%" in labeller.summary()


def test_a_guess_is_scaled_by_its_own_range_to_eight_bits() -> None:
    guess = np.array([[1.0, 1.0], [3.0, 2.0]], np.float32)
    picture = relative_picture(guess)
    assert picture.shape == (320, 320) and picture.dtype == np.float32
    corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]] * 255
    np.testing.assert_allclose(corners, [0, 0, 255, 127], atol=0.01, err_msg="cut off, not rounded")
    assert set(np.unique(np.round(picture * 255, 3) % 1)) == {0.0}
    assert (relative_picture(np.full((4, 4), 7.0)) == 0).all()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Depth Anything in transformers' layout, with random weights of tiny widths."""
    folder = tmp_path_factory.mktemp("depth-anything")
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8,
        head_hidden_size=4, patch_size=14,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 42, "width": 42}, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(
        folder
    )
    return folder


def test_depth_anything_is_run_as_its_own_interface_says(vq: DepthVq, network: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    labeller = GuessedDepth(vq, str(network))
    codes = labeller.label(image, None)
    inputs = DPTImageProcessor.from_pretrained(network)(images=Image.fromarray(image), return_tensors="pt")
    with torch.no_grad():
        guess = DepthAnythingForDepthEstimation.from_pretrained(network)(**inputs).predicted_depth
    whole = F.interpolate(guess[:, None], (48, 64), mode="bicubic", align_corners=False)[0, 0].numpy()
    wanted = vq.encode(torch.from_numpy(relative_picture(whole))[None, None])[0].numpy()
    np.testing.assert_array_equal(codes, wanted)
    assert labeller.summary() == f"depth tokens of 1 frames by {network}"
    depth = np.linspace(0.5, 2, 48 * 64, dtype=np.float32).reshape(48, 64)
    share = (wanted == vq.encode_depth(depth)).mean()
    labeller.label(image, depth)
    assert labeller.agreement == [pytest.approx(share)]
    assert f"in 1 with measured depth, {share:.0%} of the codes equal" in labeller.summary()


def test_a_folder_without_the_network(vq: DepthVq, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        GuessedDepth(vq, str(tmp_path))


def test_a_guess_has_no_metres_for_a_decoder_that_wants_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--depth measured"):
        GuessedDepth(DepthVq(4, 8, span=(0.5, 1.5)), str(tmp_path))
