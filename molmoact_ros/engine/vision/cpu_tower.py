"""Runs the vision tower of small models on a CPU: a step's images are one call of compiled code (cpu_tower.cpp)."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor, nn

from molmoact_ros.engine.cpu_library import ADDRESS, COUNT, NativeArrays, fits, library
from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.model.molmoact import MolmoAct, VisionBackbone, VitBlock
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.reasoning.answer import RefusedStep


class _Block(ctypes.Structure):
    _fields_ = [(name, ADDRESS) for name in
                ("attention_norm", "attention_shift", "project", "project_bias", "output", "output_bias",
                 "mlp_norm", "mlp_shift", "up", "up_bias", "down", "down_bias")]  # fmt: skip


class _Tower(ctypes.Structure):
    _fields_ = [
        *((name, COUNT) for name in
          ("blocks", "patch_dim", "width", "heads", "kv_heads", "head", "inner", "taps",
           "pool_width", "pool_heads", "pool_kv_heads", "pool_head", "pool_inner", "hidden", "masked")),
        ("epsilon", ctypes.c_float), ("block", ctypes.POINTER(_Block)),
        *((name, ADDRESS) for name in
          ("tap", "patch", "patch_bias", "positions", "query", "query_bias", "key_value", "key_value_bias",
           "pool_output", "pool_output_bias", "up_gate", "down")),
    ]  # fmt: skip


def can_encode(model: MolmoAct | MolmoAct2) -> bool:
    """Whether the kernel can run a model's tower: compiled, on the CPU in float32, small, of the nano's kind."""
    vit, adapter = model.config.vit_config, model.config.adapter_config
    kind = vit.hidden_act == "gelu_pytorch_tanh" and adapter.hidden_act == "silu"
    plain = not vit.use_cls_token and not vit.pre_layernorm
    widths = [vit.hidden_size, vit.head_dim, vit.intermediate_size]
    widths += [adapter.hidden_size, adapter.head_dim, adapter.intermediate_size, adapter.text_hidden_size]
    return kind and plain and fits(list(model.model.vision_backbone.parameters()), widths)


class CpuTower:
    """The tower and connector of a model that passes `can_encode`.

    Example:
        tower = CpuTower(model)
        features = tower(processor(images))  # [1, T, hidden]
    """

    def __init__(self, model: MolmoAct | MolmoAct2) -> None:
        self._arrays, self._hidden = NativeArrays(), model.config.adapter_config.text_hidden_size
        self._shape = (model.config.vit_config.image_num_pos, model.config.vit_config.patch_dim)
        self._tower = self._structure(model.config, model.model.vision_backbone)

    def __call__(self, pictures: ImageInputs) -> Tensor:
        """Encode images to features [1, T, hidden]. Raises RefusedStep for images of another shape."""
        crops, index = np.ascontiguousarray(pictures.crops), np.ascontiguousarray(pictures.indices)
        if crops.shape[1:] != self._shape or index.max(initial=-1) >= crops.shape[0] * crops.shape[1]:
            raise RefusedStep(
                f"the vision tower takes crops of {list(self._shape)} values; the {len(crops)} of these images have "
                f"{list(crops.shape[1:])}, and tokens of up to patch {index.max(initial=-1)}: preprocessor_config.json "
                "does not fit config.json"
            )
        features = np.empty((1, len(index), self._hidden), np.float32)
        native = library()
        assert native is not None
        native.molmoact_tower(
            ctypes.addressof(self._tower), crops.ctypes.data, len(crops), crops.shape[1], index.ctypes.data, len(index),
            features.ctypes.data,
        )  # fmt: skip
        return torch.from_numpy(features)

    def _structure(self, config: MolmoActConfig | MolmoAct2Config, backbone: VisionBackbone) -> _Tower:
        vit, adapter, keep, pack = config.vit_config, config.adapter_config, self._arrays.keep, self._arrays.pack
        tower, pooling, projector = backbone.image_vit, backbone.image_pooling_2d, backbone.image_projector
        patch, blocks = tower.patch_embedding, tower.blocks
        return _Tower(
            len(blocks), vit.patch_dim, vit.hidden_size, vit.num_attention_heads, vit.num_key_value_heads, vit.head_dim,
            vit.intermediate_size, len(tower.taps), adapter.hidden_size, adapter.num_attention_heads,
            adapter.num_key_value_heads, adapter.head_dim, adapter.intermediate_size, adapter.text_hidden_size,
            adapter.pooling_attention_mask, vit.layer_norm_eps, (_Block * len(blocks))(*map(self._block, blocks)),
            keep(np.array(tower.taps, np.int32)), pack(patch.weight), None if patch.bias is None else keep(patch.bias),
            keep(tower.positional_embedding), *self._linear(pooling.wq), *self._linear(pooling.wk, pooling.wv),
            *self._linear(pooling.wo), pack(projector.w3.weight, projector.w1.weight), pack(projector.w2.weight),
        )  # fmt: skip

    def _block(self, block: VitBlock) -> _Block:
        keep, attention, mlp = self._arrays.keep, block.attention, block.feed_forward
        first, second = block.attention_norm, block.ffn_norm
        return _Block(
            keep(first.weight), keep(first.bias), *self._linear(attention.wq, attention.wk, attention.wv),
            *self._linear(attention.wo), keep(second.weight), keep(second.bias), *self._linear(mlp.w1),
            *self._linear(mlp.w2),
        )  # fmt: skip

    def _linear(self, *layers: nn.Linear) -> tuple[int, int]:
        """The addresses of the weights and biases of layers over the same input, as one layer."""
        weights, biases = [layer.weight for layer in layers], [layer.bias.detach() for layer in layers]
        return self._arrays.pack(*weights), self._arrays.keep(torch.cat(biases))
