# SPDX-License-Identifier: Apache-2.0
"""Addresses and phone numbers are replaced, and nothing that only looks like them."""

from __future__ import annotations

import time

import pytest

from megacpt.curate.filters.personal import Personal
from megacpt.curate.filters.settings import PersonalConfig

MASKED = [
    ("write to jane.doe@firm.co.uk.", "write to email@example.com."),
    ("Jane.Doe@Firm.COM, J_D+x@a-b.io", "email@example.com, email@example.com"),
    ("<müller@städte.de>", "<email@example.com>"),
    ("mailto:a@b.org?subject=x", "mailto:email@example.com?subject=x"),
    ("o'neil@x.ie", "email@example.com"),
    ("from 8.8.8.8 to 9.9.9.9.", "from 192.0.2.1 to 192.0.2.1."),
    ("8.8.8.0/24, 1.1.1.1:53", "192.0.2.1/24, 192.0.2.1:53"),
    ("2001:4860:4860::8888 answers", "192.0.2.1 answers"),
    ("3.1.2.10 and 8.8.8.8, of 3.1.20", "192.0.2.1 and 192.0.2.1, of 3.1.20"),
    ("[2606:4700::1111]:443", "[192.0.2.1]:443"),
]
LEFT = [
    "a @ b.com, @handle, x@y, user@localhost, 5@10.30",
    "email@example.com and 192.0.2.1",
    "10.0.0.1 192.168.1.1 127.0.0.1 ::1 fe80::1 0.0.0.0",
    "object 1.3.6.1.4.1.311 of version 4.0.30319.42000, release 1.2.3.4-beta",
    "3.1.2. Termination.\n\n  3.1.2.1. As a result; see 3.1.2.1. Version 6.9.0.31 of it.",
    "at 12:30:45, std::vector, 00:1A:2B:3C:4D:5E, 300.1.1.1, 1.2.3",
    "",
]


@pytest.mark.parametrize(("text", "expected"), MASKED)
def test_what_points_to_somebody(text: str, expected: str) -> None:
    mask = Personal(PersonalConfig())
    found = mask(text)
    assert found.text == expected
    assert set(found.changes) <= {"pii_email", "pii_ip"}
    assert found.changes
    # Once more changes nothing.
    assert (mask(expected).text, mask(expected).changes) == (expected, ())


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it(text: str) -> None:
    found = Personal(PersonalConfig(phone_region=None))(text)
    assert (found.text, found.changes) == (text, ())


def test_what_was_not_asked_for_stays() -> None:
    text = "a@b.org at 8.8.8.8"
    assert Personal(PersonalConfig(email=False))(text).text == "a@b.org at 192.0.2.1"
    assert Personal(PersonalConfig(ip=False))(text).text == "email@example.com at 8.8.8.8"
    found = Personal(PersonalConfig(email_text="<email>"))(text)
    assert (found.text, found.detail) == ("<email> at 192.0.2.1", {"email": 1, "ip": 1})


@pytest.mark.parametrize(
    ("region", "text", "expected"),
    [
        ("US", "call (212) 555-2368 or 911", "call +1 202 555 0100 or 911"),
        ("DE", "Tel. 030 901820, Nr. 12345678", "Tel. +1 202 555 0100, Nr. 12345678"),
        ("ZZ", "call (212) 555-2368, +49 30 901820", "call (212) 555-2368, +1 202 555 0100"),
        ("US", "+1 202 555 0100, ISBN 978-3-16-148410-0", None),
    ],
)
def test_phone_numbers(region: str, text: str, expected: str | None) -> None:
    pytest.importorskip("phonenumbers")
    assert Personal(PersonalConfig(phone_region=region))(text).text == (expected or text)


@pytest.mark.parametrize(
    "unit", ["a", "a.", "a@", "1.", "1:", "f:", "a-b@c.", "%", "8.8.8.8.", "8.8.8.8 "]
)
def test_long_rows_of_signs_take_no_longer(unit: str) -> None:
    mask, text = Personal(PersonalConfig()), unit * 100_000
    started_at = time.process_time()
    mask(text)
    assert time.process_time() - started_at < 2
