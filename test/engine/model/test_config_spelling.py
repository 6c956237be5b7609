"""One configuration in the spellings of transformers 4 and 5, and folders that are something else than a checkpoint."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.parity import PROCESSORS
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.config import LlmConfig, MolmoActConfig
from molmoact_ros.engine.model.weight_files import CheckpointError, read_headers
from molmoact_ros.engine.vllm_backend.engine import served_name
from molmoact_ros.utils.paths import default_checkpoint

from ...conftest import released_config

THETA = 1e6
NAMES = set(LlmConfig.model_fields)
EXTRAS = st.fixed_dictionaries(
    {}, optional={
        "dtype": st.sampled_from([None, "float32", "bfloat16"]), "torch_dtype": st.sampled_from([None, "bfloat16"]),
        "architectures": st.none(), "id2label": st.just({"0": "LABEL_0"}), "transformers_version": st.just("5.24.0"),
        "tie_word_embeddings": st.booleans(), "use_cache": st.booleans(),
    },
)  # fmt: skip
"""What the one or the other version writes beside it."""
WITHIN = st.sampled_from([{"rope_type": "default"}, {"type": "default"}, {"rope_type": "default", "type": "default"}])


def llm() -> dict[str, Any]:
    return json.loads(released_config(False, tiny=True).llm_config.model_dump_json())


@st.composite
def spellings(draw: st.DrawFn) -> dict[str, Any]:
    """The decoder's configuration with the base of RoPE beside, within, or both."""
    fields = {name: value for name, value in llm().items() if not name.startswith("rope")}
    within: Any = draw(WITHIN)
    spelled = draw(st.sampled_from(["rope_parameters", "rope_scaling"]))
    beside = draw(st.booleans())
    if not beside:
        fields |= draw(st.sampled_from([{}, {"rope_theta": None}]))
    if beside:
        fields["rope_theta"] = draw(st.sampled_from([THETA, int(THETA)]))
        within = draw(st.sampled_from([None, {}, within, within | {"rope_theta": THETA}, ...]))
    else:
        within = within | {"rope_theta": THETA} | draw(st.sampled_from([{}, {"partial_rotary_factor": 1.0}]))
    if within is not ...:
        fields[spelled] = within
    if draw(st.booleans()):
        fields.setdefault("rope_parameters" if spelled == "rope_scaling" else "rope_scaling", None)
    return fields | draw(EXTRAS)


@settings(max_examples=150, deadline=None)
@given(spellings())
def test_every_spelling_is_the_same_configuration(fields: dict[str, Any]) -> None:
    read = LlmConfig.model_validate_json(json.dumps(fields))
    assert read.model_dump(include=NAMES) == LlmConfig.model_validate(llm()).model_dump(include=NAMES)
    again = LlmConfig.model_validate_json(read.model_dump_json())
    assert again.rope_theta == THETA and again.rope_scaling is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_scaling.rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'llama3'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, r"rope_theta is 1000000.0, but rope_para"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is not"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention is not"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default', not an object"),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default"}}, "llm_config.rope_theta"),
        ({"use_qk_norm": True, "qk_norm_type": None}, "qk_norm_type is null, but use_qk_norm is true"),
    ],
)  # fmt: skip
def test_rope_that_is_not_computed_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    config = json.loads(released_config(False, tiny=True).model_dump_json())
    config["llm_config"] |= fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=why) as error:
        _ = CheckpointFolder(tmp_path).config
    assert "\n" not in str(error.value) and "config.json: llm_config" in str(error.value)


@pytest.mark.parametrize("olmo", [False, True])
def test_what_transformers_5_saves_is_the_same_configuration(tmp_path: Path, olmo: bool) -> None:
    """With its own PretrainedConfig, as remote code of the released model's kind uses it."""
    warnings.simplefilter("ignore")
    from transformers import PretrainedConfig

    class Llm(PretrainedConfig):
        model_type = "molmoact_llm"

        def __init__(self, rope_theta: float = 1e6, rope_scaling: Any = None, **more: Any) -> None:
            self.rope_theta, self.rope_scaling = rope_theta, rope_scaling
            super().__init__(**more)

    class Config(PretrainedConfig):
        model_type = "molmoact"

        def __init__(self, llm_config: dict[str, Any] | None = None, **more: Any) -> None:
            self.llm_config = Llm(**(llm_config or {}))
            super().__init__(**more)

    config = released_config(olmo, tiny=True)
    raw = json.loads(config.model_dump_json())
    raw.pop("model_type")
    Config(**raw).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in saved["llm_config"] and "rope_scaling" not in saved["llm_config"]
    read = CheckpointFolder(tmp_path).config
    for part in ("vit_config", "adapter_config", "llm_config"):
        known = set(type(getattr(config, part)).model_fields)
        assert getattr(read, part).model_dump(include=known) == getattr(config, part).model_dump(include=known)
    assert read.norm_stats == config.norm_stats and read.image_patch_id == config.image_patch_id


def test_a_converter_without_statistics_writes_null() -> None:
    config = json.loads(released_config(False, tiny=True).model_dump_json()) | {"norm_stats": None}
    assert MolmoActConfig.model_validate(config).norm_stats == {}


def processor() -> dict[str, Any]:
    return json.loads(PROCESSORS[729].model_dump_json())


@pytest.mark.parametrize("also_plain", [False, True])
def test_the_image_processor_may_lie_in_processor_config(tmp_path: Path, also_plain: bool) -> None:
    """As transformers 5 saves it. Where both are there, it is the one that counts, as in transformers."""
    whole = {"processor_class": "MolmoActProcessor", "image_processor": processor() | {"max_crops": 6}}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    if also_plain:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor()))
    files = CheckpointFolder(tmp_path)
    assert files.processor.max_crops == 6 and files.processor_file.name == "processor_config.json"
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(default_checkpoint() / name, tmp_path)
    before = served_name(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps(whole | {"image_processor": processor()}))
    assert served_name(tmp_path) != before, "client and server would see other crops"


def test_a_processor_config_of_transformers_4_says_nothing_of_images(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"processor_class": "MolmoActProcessor", "style": "demo"})
    )
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        _ = CheckpointFolder(tmp_path).processor
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor()))
    assert CheckpointFolder(tmp_path).processor == PROCESSORS[729]


@pytest.mark.parametrize("text", ['{"image_processor": {"crop_mode": "tiles"}}', "{", '{"image_processor": 3}'])
def test_a_wrong_processor_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "processor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"processor_config\.json: ") as error:
        _ = CheckpointFolder(tmp_path).processor
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "is a PEFT adapter.*molmoact-ros merge .* --out DIR"),
        (["config.yaml", "model.pt"], "checkpoint of Ai2's trainer; convert it first.*convert_molmoact_to_hf"),
        (["model_and_optim/metadata"], "checkpoint of Ai2's trainer"),
        (["pytorch_model.bin"], "is a pickle, which is not loaded; save the weights as safetensors"),
        (["snapshots/ab12/config.json", "refs/main"], "but holds 1; give .*snapshots/ab12"),
        (["checkpoint-100/config.json", "checkpoint-200/config.json"], "but holds 2; give .*checkpoint-200"),
        (["checkpoint-9/adapter_config.json"], "but holds 1; .*checkpoint-9 is a PEFT adapter.* merge it"),
        (["README.md"], r"config\.json is missing; copy the whole checkpoint folder again"),
    ],
)  # fmt: skip
def test_a_folder_that_is_something_else_says_what_to_do(
    tmp_path: Path, names: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=why) as error:
        _ = CheckpointFolder(tmp_path).config
    assert "\n" not in str(error.value)
    assert main(["doctor", "--checkpoint", str(tmp_path)]) == 1
    assert str(error.value) in capsys.readouterr().out


def test_weights_that_are_pickles_or_an_adapter_are_named(released: Path, tmp_path: Path) -> None:
    shutil.copy(released / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        read_headers(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a PEFT adapter"):
        read_headers(tmp_path)
