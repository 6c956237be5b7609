"""Codes made of what cells look like."""

from __future__ import annotations

import numpy as np

from molmoact_ros.training.patch_codebook import flat_relief, nearest_patches, patch_codebook, patches


def some_relief(seed: int, count: int = 40) -> np.ndarray:
    """An empty table with an arm of changing width on its left and a block of one of two heights in each image."""
    rng = np.random.default_rng(seed)
    relief = rng.normal(0, 0.001, (count, 80, 80)).astype(np.float32)
    for image in relief:
        image[:, : rng.integers(4, 24)] = 0.5
        row, column = rng.integers(30, 74, 2)
        image[row : row + 5, column : column + 4] = rng.choice([0.03, 0.06])
    return relief


def test_patches_are_the_cells_of_the_image() -> None:
    image = np.arange(6400).reshape(1, 80, 80)
    cells = patches(image)
    assert cells.shape == (1, 10, 10, 64)
    np.testing.assert_array_equal(cells[0, 3, 7].reshape(8, 8), image[0, 24:32, 56:64])


def test_an_empty_table_is_one_code_and_things_have_many() -> None:
    relief = some_relief(0)
    centres = patch_codebook(relief, 32, seed=0)
    codes = nearest_patches(patches(flat_relief(relief)), centres)
    raw = patches(relief)
    empty, thing = np.abs(raw).max(-1) < 0.01, ((raw > 0.02) & (raw < 0.1)).sum(-1) >= 12
    assert len(np.unique(codes[empty])) <= 2
    assert len(np.unique(codes[thing])) > 10 and not set(codes[empty]) & set(codes[thing])


def test_a_seed_gives_the_same_codes() -> None:
    relief = some_relief(1)
    np.testing.assert_array_equal(patch_codebook(relief, 16, 3), patch_codebook(relief, 16, 3))
    assert not np.array_equal(patch_codebook(relief, 16, 3), patch_codebook(relief, 16, 4))


def test_what_is_far_above_the_table_looks_alike() -> None:
    assert abs(flat_relief(np.array(0.5)) - flat_relief(np.array(0.7))) < 1e-3
    assert flat_relief(np.array(0.05)) - flat_relief(np.array(0.02)) > 0.2
