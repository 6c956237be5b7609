"""The loss of the small MolmoAct 2: the flow towards the expert's joints, and where the named things are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.engine.model.molmoact import rope_tables
from molmoact_ros.engine.molmoact2.expert import Context
from molmoact_ros.engine.molmoact2.model import MolmoAct2, side_by_side
from molmoact_ros.engine.molmoact2.sampler import FlowSampler
from molmoact_ros.reasoning.robot_stats import TagScaling
from molmoact_ros.training.flow_matching import squared_errors
from molmoact_ros.training.molmoact2.joint_batches import JointBatch
from molmoact_ros.training.nano_model import restraint

FLOW_WEIGHT, SPACE_WEIGHT, STATE_WEIGHT = 4.0, 3.0, 1.0
SIZE = 4.0
"""Mean square of image features: more than of words, and little enough that the decoder's layers can add to it."""


class JointHead(nn.Module):
    """Auxiliary head that reads positions and the state from hidden states [N, width]; discarded after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hand, self.thing, self.state = nn.Linear(width, 3), nn.Linear(width, 3), nn.Linear(width, 8)

    def loss(self, asking: Tensor, batch: JointBatch, naming: Tensor, offsets: Tensor) -> Tensor:
        """Regression loss, a scalar: positions in decimetres, the normalised state.

        The prompts' last tokens [N, width] read gripper and state; the tokens [M, width] that name things read the
        offsets [M, 3] m from the gripper to them.
        """
        centre = batch.hand.new_tensor([0.5, 0.0, 0.15])  # approximate centre of the workspace
        space = F.smooth_l1_loss(self.hand(asking).float(), 10 * (batch.hand - centre), beta=0.1)
        if len(naming):
            space = space + F.smooth_l1_loss(self.thing(naming).float(), 10 * offsets, beta=0.1)
        return SPACE_WEIGHT * space + STATE_WEIGHT * F.mse_loss(self.state(asking).float(), batch.state)


def shared_images_context(model: MolmoAct2, batch: JointBatch, features: Tensor) -> tuple[list[Context], Tensor]:
    """What the expert reads of each prompt, with the images' part computed once for all K instructions.

    Also the hidden states of the prompts behind the images, [B * K, S, hidden], after half of the layers and the final
    norm. Equal to `prefill` of B * K whole prompts, since later tokens do not affect the images'.
    """
    parts, llm = model.model.transformer, model.config.llm_config
    prefix = batch.prefix.expand(len(features), -1)
    images, words = model.embed(prefix, features), parts.wte(batch.ids)
    length, before, asked = words.shape[1], images.shape[1], len(words) // len(images)
    cos, sin = (table.to(images) for table in rope_tables(llm, before + length))
    there, here = (cos[:before], sin[:before]), (cos[before:], sin[before:])
    framed = model.readable(batch.prefix.unsqueeze(0)).unsqueeze(1)
    sees = torch.ones(length, before + length, dtype=torch.bool, device=images.device).tril(before)
    keys, values, halfway = [], [], words
    for number, block in enumerate(model.layers, start=1):
        attention = block.self_attn
        q, k, v = attention.heads(block.attn_norm(images), *there)
        q2, k2, v2 = attention.heads(block.attn_norm(words), *here)
        k2, v2 = (torch.cat([a.repeat_interleave(asked, 0), b], dim=2) for a, b in ((k, k2), (v, v2)))
        keys.append(k2)
        values.append(v2)
        if number == len(model.layers):
            break
        images = images + attention.output(q, k, v, mask=framed)
        words = words + attention.output(q2, k2, v2, mask=sees)
        images, words = (x + block.mlp(block.ff_norm(x)) for x in (images, words))
        if 2 * number == llm.num_hidden_layers:
            halfway = parts.ln_f(words)
    context = model.action_expert.context(side_by_side(torch.stack(keys)), side_by_side(torch.stack(values)))
    return context, halfway


def readable_context(model: MolmoAct2, batch: JointBatch) -> Tensor:
    """Which tokens of each whole prompt the expert may read, bool [B * K, 1, 1, F + S]."""
    whole = torch.cat([batch.prefix.expand(len(batch.ids), -1), batch.ids], dim=1)
    there = torch.ones_like(whole, dtype=torch.bool)
    there[:, len(batch.prefix) :] = batch.there
    return (model.expert_readable(whole) & there)[:, None, None]


@torch.no_grad()
def joint_errors_of(model: MolmoAct2, head: JointHead, batch: JointBatch, scaling: TagScaling) -> dict[str, float]:
    """How far off a model is: joints of sampled chunks, mean and at their end, in mrad; offsets to things in mm.

    Chunks are sampled from the batch's first noise.
    """
    batch = batch.to(model.lm_head.weight.device)
    features = model.image_features(batch.crops, batch.pooled.expand(len(batch.crops), -1, -1))
    context, halfway = shared_images_context(model, batch, features)
    sampler, steps = FlowSampler(model.action_expert, scaling.action_dimensions), model.config.flow_matching_num_steps
    found = sampler.sample(batch.noise[:, 0], context, steps, readable_context(model, batch))
    apart = np.stack([
        np.abs(scaling.actions(mine) - scaling.actions(wanted))[:, :7]
        for mine, wanted in zip(found.float().cpu().numpy(), batch.actions.cpu().numpy(), strict=True)
    ])  # fmt: skip
    named = ~batch.offsets.isnan().any(-1)
    away = (head.thing(halfway[named]).float() / 10 - batch.offsets[named]).norm(dim=-1)
    return {
        "joint_mrad": float(1000 * apart.mean()), "last_joint_mrad": float(1000 * apart[:, -1].mean()),
        "thing_mm": float(1000 * away.mean()),
    }  # fmt: skip


def joint_loss(model: MolmoAct2, head: JointHead, batch: JointBatch, frozen: bool = False) -> Tensor:
    """The training loss, a scalar []: squared errors of velocities, and the auxiliary regressions.

    frozen: tower and connector stay as they are. An answer has to locate the named thing in the image: the token that
    names it attends to it in the lower layers, and the expert reads the result there. With few examples, training
    learns this chain only if its first link is supervised.
    """
    batch = batch.to(model.lm_head.weight.device)
    with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
        features = model.image_features(batch.crops, batch.pooled.expand(len(batch.crops), -1, -1))
    context, halfway = shared_images_context(model, batch, features)
    mask = readable_context(model, batch)
    errors = squared_errors(model.action_expert, context, mask, batch.actions, batch.noise, batch.times)
    named = ~batch.offsets.isnan().any(-1)
    asking = halfway[torch.arange(len(halfway), device=halfway.device), batch.last]
    flow = errors[..., : batch.state.shape[-1]].mean()
    space = head.loss(asking, batch, halfway[named], batch.offsets[named])
    return FLOW_WEIGHT * flow + space + restraint(features, SIZE)
