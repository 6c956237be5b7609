"""A checkpoint's config.json and tokenizer.json as transformers hands them to vLLM."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PretrainedConfig, PreTrainedTokenizerFast
from vllm.tokenizers.hf import get_cached_tokenizer

from molmoact_ros.engine.model.checkpoint import TOKENIZER
from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.reasoning.tokens import END_OF_TEXT

MODEL_TYPE, ARCHITECTURE = "molmoact", "MolmoActForActionReasoning"


class ServedConfig(PretrainedConfig):
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


class PlainTokenizer(PreTrainedTokenizerFast):
    """A folder's tokenizer.json, whatever lies beside it."""

    def __init__(self, *args: Any, **named: Any) -> None:
        ends = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
        super().__init__(*args, **(ends | named))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *_: object, **__: object) -> PreTrainedTokenizerFast:
        """The folder's, with the properties that vLLM keeps at hand beside it."""
        return get_cached_tokenizer(cls(tokenizer_file=str(Path(folder) / TOKENIZER)))

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """What llguidance, which asks for it, should take for the vocabulary: see `named_by_ids`."""
        return named_by_ids(self._tokenizer)


@cache
def named_by_ids(tokenizer: Tokenizer) -> Tokenizer:
    """The same ids under the names #[0], #[1], and so on; the special tokens keep theirs.

    Our grammars are over ids, so the names do not matter, but their lengths do: where llguidance (1.7) takes back
    drafted tokens, it counts the bytes of their names, though it has read each as one byte and [id]. With these names
    both are the same. The decoder is one that it knows how to turn into bytes.
    """
    special = {i: token for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    names = {special[i].content if i in special else f"#[{i}]": i for i in range(size)}
    renamed = Tokenizer(WordLevel(names, unk_token=next(name for name in names if name.startswith("#"))))
    renamed.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    renamed.add_special_tokens([special[i] for i in sorted(special)])
    return renamed
