"""Small byte-level tokenizers with chat templates."""

import json
from pathlib import Path

from tests.data_tools.test_tokenizer_huggingface import train_byte_level

NAMES = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
)
FORGETFUL = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if loop.last or message['role'] != 'assistant' %}{{ message['content'] }}{% else %}…"
    "{% endif %};{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ message['content'] }}</s>"
    "{% endfor %}"
)


def write_chat_tokenizer(folder: Path, template: str | None = CHATML) -> Path:
    """Writes the folder of a tokenizer, as transformers does."""
    folder.mkdir()
    train_byte_level(folder / "tokenizer.json", NAMES)
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder
