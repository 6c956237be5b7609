"""The MolmoAct plug-in for vLLM (entry point `vllm.general_plugins`). It is imported only where vLLM is installed."""

from __future__ import annotations

TOKENIZER_MODE = "molmoact"


def register() -> None:
    """Register the model with transformers and vLLM. vLLM calls this in each of its processes; imports stay light."""
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from molmoact_ros.engine.vllm_backend.plugin.config import ARCHITECTURE, MODEL_TYPE, ServedConfig

    AutoConfig.register(MODEL_TYPE, ServedConfig, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:ServedMolmoAct")
    if TOKENIZER_MODE not in TokenizerRegistry.tokenizers:
        TokenizerRegistry.register(TOKENIZER_MODE, f"{__name__}.config", "PlainTokenizer")
        RENDERER_REGISTRY.register(TOKENIZER_MODE, "vllm.renderers.hf", "HfRenderer")
