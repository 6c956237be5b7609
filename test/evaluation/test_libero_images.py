"""The released evaluation's treatment of images."""

from __future__ import annotations

import numpy as np

from molmoact_ros.evaluation.libero_images import released_image


def test_the_middle_nine_tenths_are_stretched() -> None:
    """A ramp stays a ramp: its ends are those of the cropped part, between the middles of the corner pixels."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    found = released_image(ramp)
    edge = (1 - np.sqrt(0.9)) / 2 * 255
    assert found.shape == (256, 256, 3) and found.dtype == np.uint8
    np.testing.assert_allclose(found[:, 0], edge, atol=1.5)
    np.testing.assert_allclose(found[:, -1], 255 - edge, atol=1.5)
    np.testing.assert_allclose(found[128, :, 0], np.linspace(edge, 255 - edge, 256), atol=1.5)


def test_colours_stay_and_a_jpeg_blurs_them() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, :, 0] = 200
    np.testing.assert_allclose(released_image(image)[10, 10], [200, 0, 0], atol=3)
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    middle = noise[100:156, 100:156].astype(float)
    assert abs(released_image(noise)[100:156, 100:156].std() - middle.std()) > 5, "chroma is halved"
