# SPDX-License-Identifier: Apache-2.0
"""Conversations as chat templates write them are read back; prose is left alone."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from megacpt.curate.rewrite.markup import read_markup

EACH, END = "{% for m in messages %}", "{% endfor %}"
NAMES = "{{ {'user': 'Human', 'assistant': 'Assistant', 'system': 'System'}[m.role] }}"
TEMPLATES = {
    "chatml": EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + END,
    "llama 3": "<|begin_of_text|>"
    + EACH
    + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    + END,
    "zephyr": EACH + "<|{{ m.role }}|>\n{{ m.content }}</s>\n" + END,
    "gemma": "<bos>"
    + EACH
    + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    + "{{ m.content }}<end_of_turn>\n"
    + END,
    "llama 2": EACH
    + "{% if m.role == 'system' %}<s>[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
    + "{% elif m.role == 'user' %}{{ '' if loop.index == 2 else '<s>[INST] ' }}{{ m.content }}"
    + " [/INST]{% else %} {{ m.content }} </s>{% endif %}"
    + END,
    "guanaco": f"{EACH}### {NAMES}: {{{{ m.content }}}}{END}",
    "hh": f"{EACH}\n\n{NAMES}: {{{{ m.content }}}}{END}",
}
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is\na tort?"},
    {"role": "assistant", "content": "A civil wrong.\n\n- One\n- Two"},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You're welcome."},
]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_what_transformers_renders_is_read_back(template: str) -> None:
    (text,), _ = render_jinja_template([MESSAGES], chat_template=template)
    found = read_markup(text)
    assert found is not None
    assert [(t["role"], t["text"]) for t in found.values["turns"]] == [
        (m["role"], m["content"]) for m in MESSAGES
    ]


def test_the_sentence_about_the_task_stays() -> None:
    text = (
        "Below is an instruction that describes a task.\n\n### Instruction:\nAdd.\n\n"
        "### Input:\n2 and 3\n\n### Response:\n5"
    )
    found = read_markup(text)
    assert found is not None
    assert [(t["role"], t["text"]) for t in found.values["turns"]] == [
        ("system", "Below is an instruction that describes a task."),
        ("user", "Add."),
        ("user", "2 and 3"),
        ("assistant", "5"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "A question: what is a tort? An answer: a civil wrong.",
        "User: alice\nHost: example\n",
        "Answer: 5\nQuestion: 2+3",
        "### Response:\n\nto the committee",
        "x" * 400 + "\nHuman: a\nAssistant: b",
        "HTTP has <|user|> in no header.",
        "",
    ],
)
def test_prose_is_none(text: str) -> None:
    assert read_markup(text) is None
