"""`export-hf` names the servers that support a folder, with commands to copy."""

import json
from pathlib import Path

import pytest

from bigtrain.convert.serve_commands import render_servers


def folder_of(
    folder: Path, *, architecture: str, tokenizer: str = "BPE", is_sentencepiece: bool = True
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": tokenizer}}))
    if is_sentencepiece:
        (folder / "tokenizer.model").write_bytes(b"")
    return folder


def test_a_llama_is_served_by_all(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "my model", architecture="LlamaForCausalLM")
    shown = [line.replace(str(tmp_path), "TMP") for line in render_servers(folder)]
    assert shown == [
        "serve it with one of:",
        "  vllm serve 'TMP/my model'",
        "  transformers serve 'TMP/my model'",
        "  python llama.cpp/convert_hf_to_gguf.py 'TMP/my model' --outfile 'TMP/my model.gguf'",
        "  llama-server --model 'TMP/my model.gguf' "
        "--override-kv tokenizer.ggml.add_bos_token=bool:false "
        "--override-kv tokenizer.ggml.add_space_prefix=bool:false",
    ]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"architecture": "GPT2LMHeadModel"}, "takes a GPT2LMHeadModel only with known tokenizers"),
        (
            {"architecture": "Qwen3ForCausalLM", "tokenizer": "Unigram"},
            "needs a SentencePiece tokenizer of kind BPE",
        ),
        (
            {"architecture": "MistralForCausalLM", "is_sentencepiece": False},
            "needs a SentencePiece tokenizer of kind BPE",
        ),
    ],
)
def test_llama_cpp_is_named_only_with_a_tokenizer_that_it_reads(
    values: dict[str, str], reason: str, tmp_path: Path
) -> None:
    shown = [*render_servers(folder_of(tmp_path / "model", **values))]  # type: ignore[arg-type]
    assert len(shown) == 4 and not any("gguf" in line for line in shown)
    assert shown[3].startswith("not served by llama.cpp: its converter") and reason in shown[3]


def test_a_model_that_continues_no_texts_has_no_server(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", architecture="BertForPreTraining")
    [line] = render_servers(folder)
    assert line.endswith("llama.cpp: a BertForPreTraining does not continue texts")
