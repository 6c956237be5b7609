"""A checkpoint's config.json and tokenizer.json as transformers hands them to vLLM."""

from __future__ import annotations

from typing import Any

from tokenizers import decoders
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from molmoact_ros.engine.config import MolmoActConfig
from molmoact_ros.reasoning.tokens import END_OF_TEXT

MODEL_TYPE, ARCHITECTURE = "molmoact", "MolmoActForActionReasoning"


class ServedConfig(PretrainedConfig):  # type: ignore[misc]
    """config.json with the decoder's sizes under the names by which vLLM plans its caches."""

    model_type = MODEL_TYPE

    def __init__(self, llm_config: dict[str, Any] | None = None, **fields: Any) -> None:
        llm = llm_config or {}
        fields.setdefault("architectures", [ARCHITECTURE])
        self.llm_config = llm
        self.text_config = PretrainedConfig(**_decoder(llm)) if llm else PretrainedConfig()
        super().__init__(**fields)

    def get_text_config(self, *_: object, **__: object) -> PretrainedConfig:
        """The decoder's."""
        return self.text_config

    @property
    def checked(self) -> MolmoActConfig:
        """The same, as the rest of this package knows it."""
        return MolmoActConfig.model_validate(self.to_dict())


def _decoder(llm: dict[str, Any]) -> dict[str, Any]:
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
             "num_hidden_layers", "intermediate_size", "hidden_act", "max_position_embeddings")  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": llm["rope_theta"]}
    same = {name: llm[name] for name in names}
    return {**same, "rms_norm_eps": llm["layer_norm_eps"], "rope_parameters": rope, "architectures": [ARCHITECTURE]}


class PlainTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A folder's tokenizer.json where nothing beside it says more (the nano's).

    Its decoder only joins tokens. vLLM's grammars want one whose tokens are bytes; with the byte fallback, which no
    token of it uses, it decodes to the same text and is one of those.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **({"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT} | named))
        if type(self._tokenizer.decoder) is decoders.Fuse or self._tokenizer.decoder is None:
            self._tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
