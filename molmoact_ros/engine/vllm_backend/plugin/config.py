"""A checkpoint's config.json and tokenizer.json in the form that transformers passes to vLLM."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PretrainedConfig, PreTrainedTokenizerFast
from vllm.tokenizers.hf import get_cached_tokenizer

from molmoact_ros.engine.model.checkpoint import TOKENIZER
from molmoact_ros.engine.model.config import LlmConfig, MolmoActConfig
from molmoact_ros.reasoning.tokens import END_OF_TEXT

MODEL_TYPE, ARCHITECTURE = "molmoact", "MolmoActForActionReasoning"


class ServedConfig(PretrainedConfig):
    """config.json with the decoder's sizes under the names from which vLLM sizes its caches."""

    model_type = MODEL_TYPE

    def __init__(self, llm_config: dict[str, Any] | None = None, **fields: Any) -> None:
        llm = llm_config or {}
        fields.setdefault("architectures", [ARCHITECTURE])
        self.llm_config = llm
        self.text_config = PretrainedConfig(**_decoder(llm)) if llm else PretrainedConfig()
        super().__init__(**fields)

    def get_text_config(self, *_: object, **__: object) -> PretrainedConfig:
        """The decoder's configuration."""
        return self.text_config

    @property
    def checked(self) -> MolmoActConfig:
        """The validated configuration as used by the rest of this package."""
        return MolmoActConfig.model_validate(self.to_dict())


def _decoder(llm: dict[str, Any]) -> dict[str, Any]:
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
             "num_hidden_layers", "intermediate_size", "hidden_act", "max_position_embeddings")  # fmt: skip
    read = LlmConfig.model_validate(llm)  # in whichever spelling
    rope = {"rope_type": "default", "rope_theta": read.rope_theta}
    same = {name: getattr(read, name) for name in names}
    return {**same, "rms_norm_eps": read.layer_norm_eps, "rope_parameters": rope, "architectures": [ARCHITECTURE]}


class PlainTokenizer(PreTrainedTokenizerFast):
    """A folder's tokenizer.json, independent of other tokenizer files next to it."""

    def __init__(self, *args: Any, **named: Any) -> None:
        ends = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
        super().__init__(*args, **(ends | named))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *_: object, **__: object) -> PreTrainedTokenizerFast:
        """The folder's tokenizer, with the properties that vLLM caches."""
        return get_cached_tokenizer(cls(tokenizer_file=str(Path(folder) / TOKENIZER)))

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The vocabulary for llguidance, which reads this property: see `named_by_ids`."""
        return named_by_ids(self._tokenizer)


@cache
def named_by_ids(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the same ids under the names #[0], #[1], and so on; special tokens keep their names.

    Our grammars are over ids, so names do not matter, but their lengths do: when llguidance (1.7) rolls back drafted
    tokens, it counts the bytes of their names, although it consumed each as one byte and [id]. With these names both
    counts agree. The decoder is one that llguidance can convert to bytes.
    """
    special = {i: token for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    names = {special[i].content if i in special else f"#[{i}]": i for i in range(size)}
    renamed = Tokenizer(WordLevel(names, unk_token=next(name for name in names if name.startswith("#"))))
    renamed.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    renamed.add_special_tokens([special[i] for i in sorted(special)])
    return renamed
