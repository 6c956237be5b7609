"""Second stage of training: the whole model learns to generate answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.engine.model.molmoact import MolmoAct, rope_tables
from molmoact_ros.training.data_loader import Batch, BatchMaker
from molmoact_ros.training.nano_model import FEATURE_SIZE, restraint
from molmoact_ros.training.soft_targets import SoftTargets, pointing_loss
from molmoact_ros.training.trace_augmentation import SOON

POINTING_WEIGHT, SPACE_WEIGHT, STROKE_WEIGHT = 1.0, 3.0, 5.0
NAMING_WEIGHT, PRESENT_WEIGHT, LIKENESS = 10.0, 5.0, 0.5  # as in `stage_vision`
CENTRE = (0.5, 0.0, 0.15)  # m, approximate centre of the workspace in the base frame
NEAR = 0.12  # m
NEXT = 1.0  # hundreds of pixels along a stroke: the part that the next actions follow


class SpaceHead(nn.Module):
    """Auxiliary head that regresses positions from hidden states [N, width]; it is discarded after training.

    Its targets are the gripper's position, an object's offset from it, and a stroke's position and continuation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hand, self.thing = nn.Linear(width, 3), nn.Linear(width, 3)
        self.moves, self.line = nn.Linear(width, 3 * len(SOON)), nn.Linear(width, 5)
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def loss(self, asking: Tensor, hand: Tensor, naming: Tensor, offsets: Tensor) -> Tensor:
        """Regression loss, a scalar in decimetres.

        The prompts' last tokens [N, width] predict the gripper's positions [N, 3] m in the base frame; the name tokens
        [M, width] predict the objects' offsets [M, 3] m from the gripper.
        """
        hand_loss = _decimetres(self.hand(asking), hand - hand.new_tensor(CENTRE))
        return hand_loss + _decimetres(self.thing(naming), offsets) if len(naming) else hand_loss

    def read_hand(self, asking: Tensor) -> Tensor:
        """The gripper's positions [N, 3] m in the base frame that the prompts' last tokens [N, width] tell."""
        read: Tensor = self.hand(asking) / 10 + asking.new_tensor(CENTRE)
        return read

    def moves_loss(self, asking: Tensor, moves: Tensor) -> Tensor:
        """Regression loss of the prompts' last tokens [N, width] for `moves` [N, 4, 3] m: a scalar in decimetres."""
        return _decimetres(self.moves(asking), moves.flatten(1))

    def line_loss(self, front: Tensor, windows: Tensor) -> Tensor:
        """Regression loss of the front view's tokens [N, T, width] for their `windows` [N, T, 5]: a scalar."""
        shown = ~windows.isnan().any(-1)
        return F.smooth_l1_loss(self.line(front[shown]).float(), windows[shown], beta=0.1)

    def naming_loss(self, front: Tensor, name: Tensor, windows: Tensor) -> Tensor:
        """Classification loss, a scalar: tokens [N, T, width] whose windows show the stroke's next part should be
        similar to `name` [width], the others dissimilar."""
        scores = (LIKENESS * front @ name + self.bias).float()
        there = (windows[..., -1] < NEXT).float()
        return F.binary_cross_entropy_with_logits(scores, there, pos_weight=scores.new_tensor(PRESENT_WEIGHT))


def _decimetres(read: Tensor, metres: Tensor) -> Tensor:
    return F.smooth_l1_loss(read, 10 * metres, beta=0.1)


@dataclass(frozen=True)
class SharedImages:
    """Hidden states of a batch of B states with K instructions each; all but the features are after the final norm.

    features: of the images, [B, T, hidden]. seen: input of the layers for begin token and images, [B, F, hidden].
    halfway, hidden: of prompts and answers after half of the layers and at the end, [B * K, S, hidden].
    """

    features: Tensor
    seen: Tensor
    halfway: Tensor
    hidden: Tensor


def shared_images_forward(model: MolmoAct, batch: Batch, pooled: Tensor) -> SharedImages:
    """Forward pass that computes the images once for all K instructions.

    The results equal those of B * K whole sequences, since causal attention keeps later tokens from affecting the
    images' tokens. pooled: int64 [1, T, 4], as in `MolmoAct.image_features`.
    """
    parts, llm = model.model.transformer, model.config.llm_config
    features = model.image_features(batch.crops, pooled.expand(len(batch.crops), -1, -1))
    images = model.embed(batch.prefix, features)
    words = model.embed(batch.ids, None)
    cos, sin = (table.to(images.device) for table in rope_tables(llm, llm.max_position_embeddings))
    there = (cos[: images.shape[1]], sin[: images.shape[1]])
    here = (cos[batch.positions].unsqueeze(1), sin[batch.positions].unsqueeze(1))
    asked, length = len(words) // len(images), words.shape[1]
    sees = torch.ones(length, images.shape[1] + length, dtype=torch.bool, device=images.device).tril(images.shape[1])
    seen, halfway = images, words
    for number, block in enumerate(model.layers, start=1):
        attention = block.self_attn
        q, k, v = attention.heads(block.attn_norm(images), *there)
        q2, k2, v2 = attention.heads(block.attn_norm(words), *here)
        images = images + attention.output(q, k, v, causal=True)
        keys, values = (torch.cat([a.repeat_interleave(asked, 0), b], dim=2) for a, b in ((k, k2), (v, v2)))
        words = words + attention.output(q2, keys, values, mask=sees)
        images, words = (x + block.mlp(block.ff_norm(x)) for x in (images, words))
        if 2 * number == llm.num_hidden_layers:
            halfway = words
    return SharedImages(features, parts.ln_f(seen), parts.ln_f(halfway), parts.ln_f(words))


def answer_loss(
    model: MolmoAct, head: SpaceHead, maker: BatchMaker, targets: SoftTargets, batch: Batch, news: float = 1.0,
    size: float = FEATURE_SIZE,
) -> Tensor:  # fmt: skip
    """The training loss, a scalar.

    It sums the weighted soft cross-entropy of the answers' tokens [B * K, S], the localisation loss of the prompt's
    name tokens, the auxiliary regression of gripper and object positions, and the restraint of the images' features.

    news: weight of an action value that differs from the previous action's. Most values repeat the previous one;
    copying is learnt quickly and would dominate the few values that determine the motion. size: see `restraint`.

    The prompt's last token is the phrase that announces a stroke and serves as the stroke's name. Image tokens that
    show the stroke's next part are trained to resemble it, and it is trained to point there.

    An answer has to locate the named object in the image: the name token attends to it first, in the lower layers, and
    the answer reads the result there. With few examples, training learns this chain only if its first link is
    supervised directly.
    """
    device = model.lm_head.weight.device
    batch = batch.to(device)
    read = shared_images_forward(model, batch, maker.pooled.to(device))
    seen, halfway, hidden = read.seen, read.halfway, read.hidden
    learnt, names = batch.targets >= 0, ~batch.points.isnan().any(-1)
    factors = torch.where(batch.news[learnt], news, 1.0)
    loss = targets.loss(model.logits(hidden[learnt]), batch.targets[learnt], factors) + restraint(read.features, size)
    if names.any():
        places = model.logits(halfway[names])[:, maker.coordinates]
        loss = loss + POINTING_WEIGHT * pointing_loss(places, batch.points[names])
    # A single image leaves the gripper's height ambiguous, and so its distance to an object: supervise both directly.
    last = learnt.int().argmax(dim=1)
    asking = halfway[torch.arange(len(last), device=last.device), last]
    things = ~batch.offsets.isnan().any(-1)
    loss = loss + SPACE_WEIGHT * head.loss(asking, batch.hand, halfway[things], batch.offsets[things])
    if batch.moves.isnan().any():
        return loss
    front = seen[:, batch.prefix[0] == model.config.image_patch_id][:, : batch.windows.shape[1]]
    name = model.model.transformer.wte(maker.stroke_name.to(device)).detach()
    ahead = batch.windows[..., -1] < NEXT
    placing = pointing_loss(model.logits(front[ahead])[:, maker.coordinates], maker.in_picture(batch.windows)[ahead])
    line = NAMING_WEIGHT * head.naming_loss(front, name, batch.windows) + placing
    return loss + line + STROKE_WEIGHT * (head.moves_loss(asking, batch.moves) + head.line_loss(front, batch.windows))


@torch.no_grad()
def space_errors(model: MolmoAct, head: SpaceHead, maker: BatchMaker, batches: Iterable[Batch]) -> dict[str, float]:
    """How far off, at the median in mm, the head reads where things are; things nearer than `NEAR` are left out.

    thing_mm: an object's or target's offset from the gripper; hand_mm: the gripper's position.
    """
    device, things, hands = model.lm_head.weight.device, [], []
    for batch in (batch.to(device) for batch in batches):
        halfway = shared_images_forward(model, batch, maker.pooled.to(device)).halfway
        away = batch.offsets.norm(dim=-1) > NEAR  # false where nothing is named
        things.append((head.thing(halfway[away]).float() / 10 - batch.offsets[away]).norm(dim=-1))
        last = (batch.targets >= 0).int().argmax(dim=1)
        asking = halfway[torch.arange(len(last), device=device), last]
        hands.append((head.read_hand(asking).float() - batch.hand).norm(dim=-1))
    return {"thing_mm": _median_mm(things), "hand_mm": _median_mm(hands)}


def _median_mm(metres: list[Tensor]) -> float:
    return round(1000 * float(torch.cat(metres).median()), 1)
