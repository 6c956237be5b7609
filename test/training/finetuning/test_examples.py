"""Examples: the released questions and answers, what is trained on, the mixture, and augmentation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.reasoning.answer_templates import Wording
from molmoact_ros.training.finetuning.augmentation import Crop, jitter_colours
from molmoact_ros.training.finetuning.config import FinetuneConfig
from molmoact_ros.training.finetuning.examples import NO_LOSS, Example, ExampleMaker, Mixture, check_tokenizer, collate
from molmoact_ros.training.finetuning.samples import DataError
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import STATISTICS, Labelled, make_samples


@pytest.fixture(scope="module")
def nano() -> CheckpointFolder:
    return CheckpointFolder(default_checkpoint())


def text_of(maker: ExampleMaker, ids: np.ndarray) -> str:
    return maker.engine.codec.decode([int(i) for i in ids])


def parts(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """The prompt's ids and the answer's."""
    learnt = np.flatnonzero(example.targets != NO_LOSS)
    assert (np.diff(learnt) == 1).all() and learnt[-1] == len(example.ids) - 2
    np.testing.assert_array_equal(example.targets[learnt], example.ids[learnt + 1])
    return example.ids[: learnt[0] + 1], example.ids[learnt[0] + 1 :]


def test_the_released_strings_to_the_byte(released: Path) -> None:
    """Templates B and D, the answers of the released checkpoints and those of the released fine-tuning script."""
    samples = make_samples(1, (240, 320))
    samples[0] = replace(samples[0], trace=np.array([[1, 2], [30, 255]]))
    data, task = Labelled(samples), samples[0].instruction
    files = CheckpointFolder(released)
    maker = ExampleMaker(files, data)
    assert maker.wording is Wording.SEVERAL_CAMERAS
    prompt, answer = parts(maker.example(samples[0], steered=False))
    assert prompt[0] == answer[-1] == 151_643 and (prompt == 152_066).sum() == 2 * 392
    assert text_of(maker, prompt[prompt < 152_064]) == (
        f"<|endoftext|>Image 1Image 2User: The task is {task}. What is the action that the robot should take. "
        f"To figure out the action that the robot should take to {task}, let's think through it step by step. "
        "First, what is the depth map for the first image? "
        "Second, what is the trajectory of the end effector in the first image? "
        "Based on the depth map of the first image and the trajectory of the end effector in the first image, along "
        "with other images from different camera views as additional information, what is the action that the robot "
        "should take? Assistant:"
    )
    depth = "".join(f"<DEPTH_{code}>" for code in np.asarray(samples[0].depth_codes).flat)
    actions = text_of(maker, answer).split("should take is ")[1]
    assert text_of(maker, answer) == (
        f" The depth map of the first image is <DEPTH_START>{depth}<DEPTH_END>. "
        "The trajectory of the end effector in the first image is [[1, 2], [30, 255]]. "
        "Based on these information, along with other images from different camera views as additional information, "
        f"the action that the robot should take is {actions}"
    )
    assert actions.startswith("[[") and actions.endswith("]].<|endoftext|>") and actions.count("], [") == 7
    prompt, answer = parts(maker.example(samples[0], steered=True))
    assert text_of(maker, prompt[prompt < 152_064]) == (
        f"<|endoftext|>Image 1Image 2User: The task is {task}. Notice that the trajectory of the end effector is "
        "annotated on the first image. Based on the trajectory annotated on the image, along with other images from "
        "different camera views as additional information, what is the action that the robot should take? Assistant:"
    )
    assert text_of(maker, answer) == (
        " Based on the image and the annotated trajectory of the end effector, the action that the robot should take "
        f"is {actions}"
    )
    script = ExampleMaker(files, data, Wording.TWO_ARMS)
    assert text_of(script, parts(script.example(samples[0], steered=False))[1]) == (
        f" The depth map of the image is <DEPTH_START>{depth}<DEPTH_END>. The trajectory of the left end effector "
        "is [[1, 2], [30, 255]]. The trajectory of the right end effector is [[1, 2], [30, 255]]. Based on this "
        f"information, the action that the robot should take is {actions}"
    )


def test_what_is_trained_is_what_the_service_reads(nano: CheckpointFolder) -> None:
    """The service's grammar accepts the answer's tokens and reads the sample's values from them."""
    samples = make_samples(4)
    maker = ExampleMaker(nano, Labelled(samples))
    for sample in samples:
        for steered in (False, True):
            _, answer = parts(maker.example(sample, steered))
            read = maker.engine.grammars[steered].parse(answer.tolist())
            assert read.actions is not None
            np.testing.assert_allclose(STATISTICS.normalise(read.actions), sample.actions, atol=1 / 254)
            assert (read.actions[:, 6] > 0.5).all() == (sample.actions[0, 6] == 1)
            if not steered:
                np.testing.assert_array_equal(read.depth_codes, sample.depth_codes)
                np.testing.assert_array_equal(read.trace, sample.trace)


def test_the_trace_is_drawn_on_the_first_image_alone(nano: CheckpointFolder) -> None:
    sample = make_samples(1)[0]
    maker = ExampleMaker(nano, Labelled([sample]))
    plain, steered = (maker.example(sample, steered) for steered in (False, True))
    different = (plain.crops != steered.crops).any(axis=(1, 2))
    assert different.tolist() == [True, False]


def test_padding_changes_no_sequence() -> None:
    rng = np.random.default_rng(0)
    examples = [
        Example(np.arange(n), np.arange(n) - 1, rng.random((c, 2, 3), np.float32), rng.integers(0, 2, (t, 4)))
        for n, c, t in ((5, 1, 2), (3, 2, 4))
    ]
    batch = collate(examples)
    for row, example in enumerate(examples):
        for name, padding in (("ids", 0), ("targets", NO_LOSS), ("crops", 0), ("pooled", -1)):
            found, wanted = getattr(batch, name)[row].numpy(), getattr(example, name)
            np.testing.assert_array_equal(found[: len(wanted)], wanted)
            assert (found[len(wanted) :] == padding).all()
    assert batch.terms == 4 + 2  # targets begin at -1


def test_the_mixture_is_half_and_half_and_a_function_of_the_number(nano: CheckpointFolder) -> None:
    samples = make_samples(12)
    data = Labelled(samples)
    maker = ExampleMaker(nano, data)
    mixture = Mixture([(data, maker, np.arange(12))], FinetuneConfig(seed=3))
    examples = [mixture[number] for number in range(48)]
    lengths = [len(example.ids) for example in examples]
    assert collate(examples[:5]).tokens == sum(lengths[:5]), "padding is not counted"
    steered = np.array(lengths) < 260
    assert 12 < steered.sum() < 36
    again = Mixture([(data, maker, np.arange(12))], FinetuneConfig(seed=3))
    for number in (40, 7):
        for one, other in zip(vars(mixture[number]).values(), vars(again[number]).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    plain = FinetuneConfig(seed=3, augment=False, steer_share=0.0)
    shown = [Mixture([(data, maker, np.arange(12))], plain)[number].ids.tolist() for number in range(24)]
    assert sorted(shown[:12]) == sorted(shown[12:]) and shown[:12] != shown[12:], "each row once an epoch, in an order"


def test_rehearsal_has_its_share(nano: CheckpointFolder) -> None:
    new, old = Labelled(make_samples(4)), Labelled(make_samples(4, seed=9), name="old")
    sources = [(data, ExampleMaker(nano, data), np.arange(4)) for data in (new, old)]
    mixture = Mixture(sources, FinetuneConfig(rehearse_share=0.25, steer_share=0.0, augment=False))
    known = {tuple(sources[1][1].example(sample, False).ids) for sample in old.samples}
    share = np.mean([tuple(mixture[number].ids) in known for number in range(200)])
    assert 0.15 < share < 0.35


def test_a_crop_moves_the_trace_with_the_image() -> None:
    crop = Crop.draw(np.random.default_rng(5))
    assert crop.side**2 == pytest.approx(0.9) and min(crop.left, crop.top) >= 0
    image = np.zeros((240, 320, 3), np.uint8)
    trace = np.array([[60, 90], [200, 170]])
    for x, y in trace:
        image[
            round(y / 255 * 239) - 2 : round(y / 255 * 239) + 3, round(x / 255 * 319) - 2 : round(x / 255 * 319) + 3
        ] = 255
    moved = crop.trace(trace)
    assert (moved != trace).any()
    seen = crop.image(image)
    for x, y in moved:
        assert seen[round(y / 255 * 239), round(x / 255 * 319), 0] == 255
    assert crop.trace(np.array([[0, 0], [255, 255]])).tolist() == [[0, 0], [255, 255]], "clipped to the border"


def test_colours_change_within_their_bounds() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    means = [float(jitter_colours(grey, np.random.default_rng(seed)).mean()) for seed in range(60)]
    assert 79 <= min(means) < 90 and 110 < max(means) <= 121, "brightness alone changes a plain grey"
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    changed = jitter_colours(red, np.random.default_rng(1))
    assert (changed != red).any() and changed[..., 0].mean() > 2 * changed[..., 1:].mean()


def test_a_checkpoint_of_another_tokenizer_is_one_line(released: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(default_checkpoint(), folder)
    shutil.copy(released / "tokenizer.json", folder)  # Qwen's beside the nano's weights
    with pytest.raises(CheckpointError, match=r"151643 words\) puts <\|endoftext\|> at 151643, and the model has 1216"):
        check_tokenizer(CheckpointFolder(folder))
    known = json.loads((default_checkpoint() / "tokenizer.json").read_text())
    text = json.dumps(known).replace("<DEPTH_7>", "<OTHER_7>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="has no token <DEPTH_7>: it is another model's; copy the tokenizer"):
        ExampleMaker(CheckpointFolder(folder), Labelled(make_samples(1)))


def test_words_and_lengths_that_do_not_fit_are_refused(nano: CheckpointFolder) -> None:
    sample = replace(make_samples(1)[0], instruction="open the drawer")
    with pytest.raises(ValueError, match="does not know 'open', 'drawer'"):
        ExampleMaker(nano, Labelled([sample])).example(sample, steered=False)
    fine = make_samples(1)[0]
    maker = ExampleMaker(nano, Labelled([fine]))
    maker.limit = 300
    with pytest.raises(DataError, match="and at most 300 fit"):
        maker.example(fine, steered=False)
    assert torch.equal(collate([maker.example(fine, steered=True)]).ids[0, :1], torch.tensor([maker.engine.end]))
