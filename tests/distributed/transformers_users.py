"""A script that loads exports in the installed transformers, 4 or 5, and prints results as JSON."""

import json
import sys
from typing import Any

import torch
import transformers


def use(folder: str) -> dict[str, Any]:
    """Ids of every kind of tokenizer call, logits, and pipeline results."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    is_bert = tokenizer.padding_side == "right"
    load = transformers.AutoModelForPreTraining if is_bert else transformers.AutoModelForCausalLM
    model = load.from_pretrained(folder, dtype=torch.float32).eval()
    eos = tokenizer.eos_token
    template = "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
    calls = [
        tokenizer("abc def"),
        tokenizer("abc def", "ghi"),
        tokenizer(["abc", "abc def ghi"], padding=True),
        tokenizer("abc def ghi jkl", truncation=True, max_length=6),
        tokenizer(f"abc {eos} def"),
        tokenizer(f"abc {eos} def", split_special_tokens=True),
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "abc"}],
            chat_template=template,
            return_dict=True,
        ),
    ]
    tokens = torch.arange(7, 37)[None]
    with torch.no_grad():
        found = model(tokens)
    logits = found.prediction_logits if is_bert else found.logits
    return {
        "calls": [dict(call) for call in calls],
        "text": tokenizer.decode(calls[1]["input_ids"]),
        "logits": logits[0, -1].tolist(),
        "said": _fill(folder, tokenizer) if is_bert else _write(folder, model),
    }


def _fill(folder: str, tokenizer: Any) -> list[str]:
    pipe = transformers.pipeline("fill-mask", model=folder)
    return [guess["token_str"] for guess in pipe(f"abc {tokenizer.mask_token}")]


def _write(folder: str, model: Any) -> list[Any]:
    pipe = transformers.pipeline("text-generation", model=folder)
    text = pipe("abc def", max_new_tokens=6, do_sample=False)[0]["generated_text"]
    return [text, model.generate(max_new_tokens=4, do_sample=False)[0].tolist()]


if __name__ == "__main__":
    uses = {folder: use(folder) for folder in sys.argv[1:]}
    sys.stdout.write(json.dumps({"version": transformers.__version__, "uses": uses}) + "\n")
