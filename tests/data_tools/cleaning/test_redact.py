"""Redaction of addresses, phone numbers and custom patterns, and its counts."""

import time

import pytest

from data_tools.cleaning.clean_config import RedactRules
from data_tools.cleaning.redaction_rules import build_redactions, redact


def run(text: str, **rules):
    return redact(text, build_redactions(RedactRules(**rules)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jo.smith+news@mail.example.org.", "Write to |||EMAIL_ADDRESS|||."),
        ("<a@b.co>,c@d.net", "<|||EMAIL_ADDRESS|||>,|||EMAIL_ADDRESS|||"),
        ("联系我：wang@example.cn谢谢", "联系我：|||EMAIL_ADDRESS|||谢谢"),
        ("a@b.c@d.e", "|||EMAIL_ADDRESS|||"),
        ("@decorator x @ y.z me@localhost", "@decorator x @ y.z me@localhost"),
    ],
)
def test_email_addresses_are_redacted(text, expected):
    assert run(text, email=True)[0] == expected
    assert run(text)[0] == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at 192.168.0.1:80.", "at |||IP_ADDRESS|||:80."),
        ("to 255.255.255.255", "to |||IP_ADDRESS|||"),
        ("version 1.2.3.4.5, 256.1.1.1, 1.2.3", "version 1.2.3.4.5, 256.1.1.1, 1.2.3"),
    ],
)
def test_ipv4_addresses_are_redacted(text, expected):
    assert run(text, ipv4=True)[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call +86 10 8888 6666 now", "call |||PHONE_NUMBER||| now"),
        ("(415) 155-0100 or 415-055-0100", "(415) 155-0100 or 415-055-0100"),
        ("(415) 555-2671, 415-555-2671.", "|||PHONE_NUMBER|||, |||PHONE_NUMBER|||."),
        ("2024-11-22, 1+1 2, ISBN 978-3-16-148410-0", "2024-11-22, 1+1 2, ISBN 978-3-16-148410-0"),
    ],
)
def test_phone_numbers_are_redacted(text, expected):
    assert run(text, phone=True)[0] == expected


def test_custom_patterns_apply_in_order_and_are_counted_by_name():
    patterns = [
        {"name": "key", "pattern": r"sk-\w{4,}", "replacement": r"\1 stays"},
        {"name": "digits", "pattern": r"\d+", "replacement": "0"},
    ]
    text, counts = run("sk-abcd1 77 and 8, me@x.org", email=True, patterns=patterns)
    assert text == r"\0 stays 0 and 0, |||EMAIL_ADDRESS|||"
    assert counts == {"email": 1, "key": 1, "digits": 3}


def test_long_runs_of_characters_take_linear_time():
    text = ("a." * 100_000 + " ") + "1." * 100_000 + "@" + "+1" * 100_000
    started = time.process_time()
    run(text, email=True, ipv4=True, phone=True)
    assert time.process_time() - started < 5
