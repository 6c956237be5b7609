"""MolmoAct for vLLM, through its own entry point for plug-ins (`vllm.general_plugins`). Imported where vLLM is installed."""

from __future__ import annotations


def register() -> None:
    """Tell transformers and vLLM of the model; vLLM calls this in each of its processes. Nothing heavy is imported."""
    from transformers import AutoConfig, AutoTokenizer
    from vllm import ModelRegistry

    from molmoact_ros.engine.vllm_plugin.config import ARCHITECTURE, MODEL_TYPE, PlainTokenizer, ServedConfig

    AutoConfig.register(MODEL_TYPE, ServedConfig, exist_ok=True)
    AutoTokenizer.register(ServedConfig, fast_tokenizer_class=PlainTokenizer, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:ServedMolmoAct")
