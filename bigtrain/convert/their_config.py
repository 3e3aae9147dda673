"""Reads the config.json of a Hugging Face folder as the model section of a run's config.

Nothing is lost silently: the section is translated back, and every key in which the two configs
differ is refused, except those that change neither weights nor outputs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import (
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MegatronBertConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from bigtrain.checkpoint.hugging_face_folder import (
    CONFIG_FILE,
    ImportRefusal,
    check_is_hugging_face_folder,
)
from bigtrain.config.model import ModelConfig
from bigtrain.convert.bert import bert_model
from bigtrain.convert.families import NO_IDS, ExportError, Family, class_of, family_of
from bigtrain.convert.gpt2 import gpt2_model
from bigtrain.convert.llama import llama_model, mistral_model, qwen3_model

_HEADS_OF_BERT = ("cls.", "bert.pooler.")


@dataclass(frozen=True, slots=True)
class ModelType:
    """A model type of transformers that can be imported."""

    config: type[PreTrainedConfig]
    section: Callable[[Any], dict[str, Any]]
    """transformers' config → our model section."""
    prefix: str
    """Names begin with it, except those of heads; a folder of the model without heads lacks it."""
    may_begin_anew: tuple[str, ...] = ()
    """Beginnings of the names that a folder may lack: heads that training begins anew."""


MODEL_TYPES: Mapping[str, ModelType] = {
    "gpt2": ModelType(GPT2Config, gpt2_model, "transformer."),
    "llama": ModelType(LlamaConfig, llama_model, "model."),
    "mistral": ModelType(MistralConfig, mistral_model, "model."),
    "qwen3": ModelType(Qwen3Config, qwen3_model, "model."),
    "bert": ModelType(BertConfig, bert_model, "bert.", _HEADS_OF_BERT),
    "megatron-bert": ModelType(MegatronBertConfig, bert_model, "bert.", _HEADS_OF_BERT),
}

# Keys that change neither the weights nor the outputs, or that the readers have checked.
_OF_NO_EFFECT = frozenset(
    {
        *("_name_or_path", "architectures", "transformers_version", "model_type", "dtype"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type"),
        *("use_cache", "return_dict", "output_attentions", "output_hidden_states"),
        *("chunk_size_feed_forward", "classifier_dropout", "reorder_and_upcast_attn"),
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "pretraining_tp", "max_window_layers"),
    }
)
_CHECKED = frozenset(
    {
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_inner", "activation_function"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "rope_parameters"),
        "sliding_window",
    }
)


@dataclass(frozen=True, slots=True)
class TheirModel:
    """The model of a Hugging Face folder, in both configs."""

    config: PreTrainedConfig
    type: ModelType
    model: ModelConfig
    family: Family

    @property
    def architecture(self) -> str:
        """The class of transformers, for messages."""
        return class_of(self.model)

    @property
    def saved_architecture(self) -> str:
        """The class that saved the folder, which may be the model without heads."""
        name = str((self.config.architectures or [self.architecture])[0])
        return name if name.isidentifier() else self.architecture


def read_their_model(folder: Path) -> TheirModel:
    """Reads the config of a Hugging Face folder; runs no code from it.

    Raises:
        ImportRefusal: There is none, its architecture is unknown, or it asks for something that
            our model cannot compute.
    """
    values = _read_json(folder)
    try:
        return _translate(values)
    except ImportRefusal as refusal:
        raise ImportRefusal(f"{folder}: {refusal}") from None


def _read_json(folder: Path) -> dict[str, Any]:
    check_is_hugging_face_folder(folder)
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ImportRefusal(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise ImportRefusal(f"{path} has no keys; download it again")
    return values


def _translate(values: dict[str, Any]) -> TheirModel:
    kind = MODEL_TYPES.get(str(values.get("model_type")))
    if kind is None:
        raise ImportRefusal(
            f"{CONFIG_FILE}: unknown architecture: model_type={values.get('model_type')}, "
            f"architectures={values.get('architectures')}; bigtrain imports "
            f"{', '.join(MODEL_TYPES)}, and never runs code from a folder"
        )
    if values.get("quantization_config"):
        raise ImportRefusal(
            f"{CONFIG_FILE}: quantization_config: the weights are quantized; give the folder that "
            "they were quantized from"
        )
    try:
        config = kind.config.from_dict(values)
        section = kind.section(config)
        model = ModelConfig.model_validate(section)
        family = family_of(model)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ImportRefusal(f"{CONFIG_FILE}: {where}: {first['msg']}".replace("\n", " ")) from None
    except ExportError as error:
        raise ImportRefusal(f"{CONFIG_FILE}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ImportRefusal):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ImportRefusal(f"{CONFIG_FILE}: transformers cannot read it: {reason}") from None
    _check_nothing_is_lost(config, family.config(model, NO_IDS), kind)
    return TheirModel(config, kind, model, family)


def _check_nothing_is_lost(
    theirs: PreTrainedConfig, ours: PreTrainedConfig, kind: ModelType
) -> None:
    found, wanted = theirs.to_dict(), ours.to_dict()
    # transformers ignores keys that its config class does not know.
    for key in set(kind.config().to_dict()) - _OF_NO_EFFECT - _CHECKED:
        if key in wanted and found.get(key) != wanted[key]:
            raise ImportRefusal(
                f"{CONFIG_FILE}: {key}={_short(found.get(key))}; bigtrain's model computes "
                f"{_short(wanted[key])}"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
