"""Finds which tokens of a `tokenizer.json` are pad, bos, eos and so on, and records it in a copy.

The format has no field for these roles. If the usual names do not show them, they are written into
the file's added tokens as `roles`, a key that the tokenizers library and transformers ignore.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.files import load_json
from data_tools.tokenizer.special_tokens import NONE, ROLES, USUAL_NAMES

CONFIG_NAME = "tokenizer_config.json"
OLDER_NAME = "special_tokens_map.json"
_NEW_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def choose_roles(
    path: Path,
    values: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    chosen: Mapping[str, str],
) -> dict[str, int]:
    """Finds the id of every role, -1 if there is none.

    A role is taken from the first of these that has it: the user's choice, the roles recorded in a
    copy, the `tokenizer_config.json` beside the file, the usual names among its special tokens. If
    none of these has the eos, the missing roles are taken from the `special_tokens_map.json` beside
    the file.

    Args:
        path: The `tokenizer.json`.
        values: The content of the file.
        vocabulary: Its tokens and their ids.
        chosen: Tokens by role, as the user chose them.

    Raises:
        InputError: A chosen token does not exist, several tokens could have one role, or there is
            no eos.
    """
    if unknown := sorted(set(chosen) - set(ROLES)):
        raise InputError(f"no special id is called {unknown[0]}: there are {', '.join(ROLES)}")
    for role, token in chosen.items():
        if token not in vocabulary:
            raise InputError(f"{path} has no token {token!r} for {role}: give one that it has")
    configured = {} if _recorded(values) else _load_config(path.with_name(CONFIG_NAME))
    named = {role: token for role, token in configured.items() if token in vocabulary} | {**chosen}
    candidates = _candidates(values)
    roles = {}
    for role in ROLES:
        names = [named[role]] if role in named else candidates[role]
        if len(names) > 1:
            raise InputError(f"{path}: {' and '.join(names)} could each be {role}: {_remedy(role)}")
        roles[role] = vocabulary[names[0]] if names else NONE
    if roles["eos"] == NONE:
        for role, token in _load_config(path.with_name(OLDER_NAME)).items():
            if roles[role] == NONE:
                roles[role] = vocabulary.get(token, NONE)
    if roles["eos"] == NONE:
        raise InputError(f"{path} does not say which token ends a document: {_remedy('eos')}")
    return roles


def record_roles(
    values: dict[str, Any], roles: Mapping[str, int], vocabulary: Mapping[str, int]
) -> bool:
    """Writes the roles into `values`, if the file without them would show other roles.

    Returns:
        Whether anything was written.
    """
    candidates = _candidates(values)
    if all(
        [vocabulary[name] for name in candidates[role]] == ([] if i == NONE else [i])
        for role, i in roles.items()
    ):
        return False
    names = {token_id: name for name, token_id in vocabulary.items()}
    tokens = {int(token["id"]): token for token in values["added_tokens"]}
    for token in tokens.values():
        token.pop("roles", None)
    for role, token_id in roles.items():
        if token_id != NONE:
            new = {"id": token_id, "content": names[token_id], **_NEW_TOKEN}
            token = tokens.setdefault(token_id, new)
            token["special"] = True
            token.setdefault("roles", []).append(role)
    values["added_tokens"] = [tokens[token_id] for token_id in sorted(tokens)]
    return True


def _candidates(values: Mapping[str, Any]) -> dict[str, list[str]]:
    if recorded := _recorded(values):
        return {role: [name for name, roles in recorded if role in roles] for role in ROLES}
    special = {token["content"] for token in values["added_tokens"] if token["special"]}
    return {role: [name for name in USUAL_NAMES[role] if name in special] for role in ROLES}


def _recorded(values: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (token["content"], token["roles"]) for token in values["added_tokens"] if "roles" in token
    ]


def _load_config(path: Path) -> dict[str, str]:
    values = load_json(path) if path.is_file() else {}
    found = {}
    for role in ROLES:
        token = values.get(f"{role}_token")
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str):
            found[role] = name
    return found


def _remedy(role: str) -> str:
    return f'write {{"{role}_token": "..."}} into a {CONFIG_NAME} beside it'
