"""The vocabulary of the released 7B-D, a folder in its layout with tiny widths, and a small random MolmoAct 2."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from molmoact_ros.doctor.parity import PROCESSORS
from molmoact_ros.engine.model.checkpoint import text_codec
from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS
from molmoact_ros.reasoning.tokens import END_OF_TEXT, IMAGE_TOKENS, TextCodec
from molmoact_ros.robots.franka import HOME_Q

from .turns import turn

WORDS, ADDED, VOCABULARY = 151_643, 22, 152_064  # Qwen2.5: byte-pair tokens, special ones behind them, padded size
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SHARDS = 3


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with turn(item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session")
def qwen() -> Tokenizer:
    """The tokenizer of 7B-D as its description has it: Qwen's ranks, depth tokens in the first free places."""
    ranks = read_ranks()
    spelling = byte_spelling()
    vocabulary = {"".join(spelling[b] for b in token): rank for token, rank in ranks.items()}
    merges = sorted((rank, last_merge(token, ranks)) for token, rank in ranks.items() if len(token) > 1)
    pairs = [("".join(spelling[b] for b in a), "".join(spelling[b] for b in c)) for _, (a, c) in merges]
    tokenizer = Tokenizer(BPE(vocabulary, pairs))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [END_OF_TEXT, *(f"<|special_{i}|>" for i in range(1, ADDED))]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    depth = (DEPTH_START, DEPTH_END, *DEPTH_TOKENS)
    free = VOCABULARY - WORDS - ADDED - len(depth)
    plain = [*depth, *(f"|<EXTRA_TOKENS_{i}>|" for i in range(free))]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in IMAGE_TOKENS])
    return tokenizer


@pytest.fixture(scope="session")
def qwen_codec(qwen: Tokenizer) -> TextCodec:
    return text_codec(qwen)


def read_ranks() -> dict[bytes, int]:
    """Qwen's vocabulary, from a package that ships it."""
    package = importlib.util.find_spec("dashscope")
    assert package is not None and package.origin is not None, "make setup installs dashscope"
    lines = (Path(package.origin).parent / "resources" / "qwen.tiktoken").read_bytes().split(b"\n")
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def byte_spelling() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that a token is merged from."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], WORDS) for i in range(len(parts) - 1)]
        best = pairs.index(min(pairs))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def released_config(olmo: bool, tiny: bool) -> MolmoActConfig:
    """The released 7B-D or 7B-O (olmo), or the same with tiny widths and every layer (tiny)."""
    width, heads, size = (16, 2, 8) if tiny else ((1024, 16, 64) if olmo else (1152, 16, 72))
    hidden, llm_heads, kv_heads = (32, 4, 4 if olmo else 2) if tiny else ((4096, 32, 32) if olmo else (3584, 28, 4))
    side, depth = (336, 24) if olmo else (378, 27)
    mlp = 24 if tiny else (11008 if olmo else 18944)
    still = {"mask": [True] * 6 + [False], "q01": [-0.01] * 6 + [0], "q99": [0.03] * 6 + [1]}
    both = {"mask": [True] * 14, "q01": [-0.02] * 12 + [0, 0], "q99": [0.02] * 12 + [1, 1]}
    return MolmoActConfig.model_validate(
        {
            "model_type": "molmoact",
            "vit_config": {
                "hidden_size": width, "intermediate_size": 24 if tiny else (4096 if olmo else 4304),
                "num_hidden_layers": 23 if olmo else 27, "num_attention_heads": heads, "num_key_value_heads": heads,
                "head_dim": size, "hidden_act": "quick_gelu" if olmo else "gelu_pytorch_tanh",
                "layer_norm_eps": 1e-5 if olmo else 1e-6, "image_default_input_size": [side, side],
                "image_patch_size": 14, "image_num_pos": depth**2 + olmo, "float32_attention": True,
                "use_cls_token": olmo, "patch_bias": not olmo, "pre_layernorm": olmo,
            },
            "adapter_config": {
                "vit_layers": [-2, -9] if olmo else [-3, -9], "hidden_size": width, "num_attention_heads": heads,
                "num_key_value_heads": heads, "head_dim": size, "float32_attention": True, "hidden_act": "silu",
                "intermediate_size": mlp, "text_hidden_size": hidden,
                "image_padding_embed": "pad_and_partial_pad" if olmo else None,
            },
            "llm_config": {
                "hidden_size": hidden, "num_attention_heads": llm_heads, "num_key_value_heads": kv_heads,
                "head_dim": 8 if tiny else 128, "vocab_size": 100_864 if olmo else VOCABULARY,
                "additional_vocab_size": 128, "qkv_bias": not olmo, "num_hidden_layers": 32 if olmo else 28,
                "intermediate_size": mlp, "hidden_act": "silu", "max_position_embeddings": 4096,
                "rope_theta": 5e5 if olmo else 1e6, "rope_scaling": None, "use_qk_norm": olmo, "qk_norm_type": "olmo",
                "layer_norm_eps": 1e-6, "norm_after": olmo,
            },
            "image_patch_id": (100_864 if olmo else VOCABULARY) + 2,
            "n_action_bins": 256,
            "norm_stats": {"molmoact": {"action": still, "num_transitions": 3}, "two_arms": {"action": both}},
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, qwen: Tokenizer) -> Path:
    """A folder as the Hub has it: sharded weights, tokenizer, processor, VQ-VAE as torch saves it. Not to change."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("released")
    config = released_config(olmo=False, tiny=True)
    model = MolmoAct(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "preprocessor_config.json").write_text(PROCESSORS[729].model_dump_json())
    qwen.save(str(folder / "tokenizer.json"))
    save_shards(folder, model.state_dict())
    vq = {f"module.{name}": tensor for name, tensor in DepthVq().state_dict().items()}
    torch.save({"weights": vq, "epoch": 20}, folder / "vae-final.pt")
    return folder


def save_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Tensors over SHARDS files, with the index that names them."""
    names = [f"model-{i + 1:05}-of-{SHARDS:05}.safetensors" for i in range(SHARDS)]
    place = {tensor: names[i * SHARDS // len(tensors)] for i, tensor in enumerate(tensors)}
    for name in names:
        save_file({t: tensors[t].contiguous() for t in tensors if place[t] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


THINK = Path(__file__).parent / "golden" / "think_like"
SIDE = 126  # pixels: nine patches, so that some are missing in the last windows


@pytest.fixture(scope="session")
def droid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MolmoAct 2 in the layout of MolmoAct2-DROID, whose joints stay near a Franka's home.

    Its widths fill vectors, so that the compiled kernels run it.
    """
    folder = tmp_path_factory.mktemp("droid")
    for name in ("tokenizer.json", "processor_config.json", "norm_stats.json", "config.json"):
        shutil.copy(THINK / name, folder)
    config, processor, stats = (
        json.loads((folder / name).read_text()) for name in ("config.json", "processor_config.json", "norm_stats.json")
    )
    wide = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    config["vit_config"] |= wide | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "image_num_pos": (SIDE // 14) ** 2,
        "image_default_input_size": [SIDE, SIDE],
    }  # fmt: skip
    config["adapter_config"] |= wide | {
        "hidden_size": 64, "intermediate_size": 128, "text_hidden_size": 96, "vit_layers": [-1, -3],
    }  # fmt: skip
    config["text_config"] |= wide | {
        "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    }  # fmt: skip
    config["action_expert_config"] |= {"hidden_size": 64, "num_heads": 2, "num_layers": 3, "ffn_multiple_of": 32}
    config |= {"enable_depth_reasoning": False, "action_expert_depth_gate": False}
    processor["image_processor"]["size"] = {"height": SIDE, "width": SIDE}
    middle = np.append(HOME_Q, 0.5)
    reach = np.append(np.full(7, 0.03), 0.5)
    scale = {"q01": (middle - reach).tolist(), "q99": (middle + reach).tolist(), "mask": [True] * 7 + [False]}
    tag = stats["metadata_by_tag"].pop("libero") | {
        "action_horizon": 15, "n_action_steps": 15, "setup_type": "single franka robotic arm in droid",
        "control_mode": "absolute joint pose", "action_stats": scale, "state_stats": scale,
        "camera_keys": ["front", "wrist"],
    }  # fmt: skip
    stats["metadata_by_tag"] = {"franka_droid": tag}
    torch.manual_seed(3)
    model = MolmoAct2(MolmoAct2Config.model_validate(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    for name, content in (("config", config), ("processor_config", processor), ("norm_stats", stats)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder
