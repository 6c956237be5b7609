"""A small random MolmoAct 2 whose widths fill vectors, so that the compiled kernels can run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpoint, RobotCheckpointFolder
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.model import MolmoAct2

THINK = Path(__file__).parents[2] / "golden" / "think_like"


@pytest.fixture(scope="session")
def wide() -> RobotCheckpoint:
    """Widths of a nano model, images of 378 pixels, without depth."""
    files = RobotCheckpointFolder(THINK)
    config = files.config.model_dump(by_alias=True)
    config["vit_config"] |= {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32,
    }  # fmt: skip
    config["adapter_config"] |= {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 32, "text_hidden_size": 96, "vit_layers": (-1, -3),
    }  # fmt: skip
    config["text_config"] |= {
        "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32,
    }  # fmt: skip
    config["action_expert_config"] |= {"hidden_size": 64, "num_heads": 2, "num_layers": 3, "ffn_multiple_of": 32}
    config |= {"enable_depth_reasoning": False, "action_expert_depth_gate": False}
    torch.manual_seed(3)
    model = MolmoAct2(MolmoAct2Config.model_validate(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return RobotCheckpoint(
        model.config, files.processor, files.stats, files.run, files.tokenizer, model.eval(), "random"
    )  # fmt: skip
