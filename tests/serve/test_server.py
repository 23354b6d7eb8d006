# SPDX-License-Identifier: Apache-2.0
"""A real model behind the server, asked by OpenAI's own client; texts are those of transformers."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import torch

from megacpt.config.sections import DeviceKind, Dtype
from megacpt.device.single import single_device
from megacpt.errors import EnvironmentError_
from megacpt.serve.model import ServedModel, load_served
from megacpt.serve.server import serving

PROMPTS = ["The capital of France is", "Water boils at", "def add(a, b):", "Once upon a time"]
QUESTION = [{"role": "user", "content": "Name a colour, in one word."}]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(smollm2: Path) -> ServedModel:
    """In float32, in which a batch's padding changes no choice of a token."""
    return load_served(
        smollm2,
        base=None,
        name="small",
        device=single_device(DeviceKind.cpu),
        dtype=Dtype.fp32,
    )


@pytest.fixture(scope="module")
def url(served: ServedModel) -> Iterator[str]:
    with serving(served, host="127.0.0.1", port=0, batch_max=4) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def alone(served: ServedModel, ids: tuple[int, ...], *, num_tokens: int) -> list[int]:
    """The likeliest tokens by the model's whole forward pass, without cache or batch."""
    found = list(ids)
    with torch.inference_mode():
        for _ in range(num_tokens):
            logits_BSV = served.model(torch.tensor([found]), use_cache=False).logits
            found.append(int(logits_BSV[0, -1].argmax()))
    return found[len(ids) :]


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "megacpt"


def test_requests_at_once_get_the_texts_of_each_alone(
    client: openai.OpenAI, served: ServedModel
) -> None:
    def ask(prompt: str) -> Any:
        return client.completions.create(model="small", prompt=prompt, max_tokens=8, temperature=0)

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        replies = list(pool.map(ask, PROMPTS))
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        ids = served.encode(prompt)
        wanted = alone(served, ids, num_tokens=8)
        assert prompt + reply.choices[0].text == served.decode([*ids, *wanted])
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 8
        assert reply.usage.prompt_tokens == len(ids)
    together = client.completions.create(model="small", prompt=PROMPTS, max_tokens=8, temperature=0)
    assert [c.text for c in together.choices] == [r.choices[0].text for r in replies]
    tokens = client.completions.create(
        model="small", prompt=list(served.encode(PROMPTS[0])), max_tokens=8, temperature=0
    )
    assert tokens.choices[0].text == replies[0].choices[0].text


def test_a_stream_is_the_whole_in_pieces(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "messages": QUESTION, "temperature": 0}
    whole = client.chat.completions.create(**asked, max_tokens=12)
    pieces, usage, finish = [], None, None
    for chunk in client.chat.completions.create(
        **asked, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(pieces) == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage == whole.usage
    assert sum(map(bool, pieces)) > 1


def test_a_chat_is_the_template_s_text_and_ends_with_the_turn(
    client: openai.OpenAI, served: ServedModel
) -> None:
    """<|im_end|> is no end of a text to this folder, but of a turn to its template."""
    turn_end = served.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert turn_end in served.turn_end_ids - served.end_ids
    text = served.tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True
    )
    ids = tuple(served.tokenizer.encode(text, add_special_tokens=False))
    wanted = alone(served, ids, num_tokens=24)
    cut = next((n for n, t in enumerate(wanted) if t in served.turn_end_ids), len(wanted))
    reply = client.chat.completions.create(
        model="small", messages=QUESTION, temperature=0, max_tokens=24
    )
    assert reply.choices[0].message.content == served.decode(wanted[:cut])
    assert reply.choices[0].finish_reason == ("stop" if cut < len(wanted) else "length")


def test_a_stop_text_ends_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": PROMPTS[0], "temperature": 0}
    whole = client.completions.create(**asked, max_tokens=12).choices[0].text
    stop = whole[5:8]
    reply = client.completions.create(**asked, max_tokens=12, stop=[stop]).choices[0]
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finish_reason == "stop"


def test_a_seed_draws_the_same_again_and_none_another(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": PROMPTS[3], "max_tokens": 12}
    seeds = [5, None, 5, None, 6]
    first, free, again, freely, other = [
        client.completions.create(**asked, seed=seed, temperature=1.5).choices[0].text
        for seed in seeds
    ]
    assert first == again
    assert len({first, free, freely, other}) == 4


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "large"}, openai.NotFoundError, "model=large is not served here; small is"),
        ({"n": 2}, openai.BadRequestError, "n is not supported here"),
        ({"max_tokens": 9000}, openai.BadRequestError, "more than the model's 8192"),
        ({"prompt": [70_000]}, openai.BadRequestError, "has the token 70000; ids go up to 49151"),
        ({"prompt": ""}, openai.BadRequestError, "prompt must be a text|the prompt is empty"),
    ],
)
def test_errors_are_openai_s(
    client: openai.OpenAI, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": "Once", "max_tokens": 2, **fields}
    with pytest.raises(error, match=message):
        client.completions.create(**asked)


def test_a_model_without_a_template_has_no_chat(client: openai.OpenAI, served: ServedModel) -> None:
    template, served.tokenizer.chat_template = served.tokenizer.chat_template, None
    try:
        with pytest.raises(openai.BadRequestError, match="has no chat template; send a prompt"):
            client.chat.completions.create(model="small", messages=QUESTION, max_tokens=2)
    finally:
        served.tokenizer.chat_template = template


@pytest.mark.parametrize(
    ("method", "path", "kind", "body", "status", "message"),
    [
        ("GET", "/v1/nothing", "", b"", 404, "there is no GET /v1/nothing"),
        ("POST", "/v1/embeddings", "application/json", b"{}", 404, "there is no POST"),
        ("POST", "/v1/completions", "text/plain", b"{}", 400, "must be application/json"),
        ("POST", "/v1/completions", "application/json", b"{", 400, "the body is no JSON"),
        ("POST", "/v1/completions", "application/json", b"[" * 100_000, 400, "no JSON"),
        ("POST", "/v1/completions", "application/json", b'{"a": "\\ud800"}', 400, "no JSON"),
        ("GET", "/health", "", b"", 200, "ok"),
    ],
)
def test_what_no_client_of_openai_sends(
    url: str, method: str, path: str, kind: str, body: bytes, status: int, message: str
) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, path, body=body, headers={"Content-Type": kind})
    reply = connection.getresponse()
    assert reply.status == status
    assert message in reply.read().decode()
    connection.close()


@pytest.mark.parametrize("length", [str(1 << 40), "9" * 5000, "-1", "\u00b2"])
def test_a_body_without_an_end_is_refused(url: str, length: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413
    assert reply.getheader("Connection") == "close"
    assert "error" in json.loads(reply.read())
    connection.close()


def test_a_key_is_asked_for(served: ServedModel) -> None:
    with serving(served, host="127.0.0.1", port=0, batch_max=1, key="sk-1") as url:
        with (
            openai.OpenAI(base_url=url, api_key="sk-2", max_retries=0) as wrong,
            pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"),
        ):
            wrong.models.list()
        with openai.OpenAI(base_url=url, api_key="sk-1", max_retries=0) as right:
            assert len(right.models.list().data) == 1


def test_the_request_behind_a_refused_one_is_read_from_its_beginning(served: ServedModel) -> None:
    body = json.dumps({"model": "small", "prompt": "Once", "max_tokens": 1})
    with serving(served, host="127.0.0.1", port=0, batch_max=1, key="sk-1") as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.connect()
        socket_before = connection.sock
        for key, status in (("sk-2", 401), ("sk-1", 200)):
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            connection.request("POST", "/v1/completions", body=body, headers=headers)
            reply = connection.getresponse()
            assert reply.status == status
            reply.read()
        assert connection.sock is socket_before
        connection.close()


def test_a_connection_that_breaks_is_no_defect(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 0)) as broken:
        broken.sendall(b"POST /v1/comp")
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    threading.Event().wait(0.3)
    assert "Traceback" not in capsys.readouterr().err


def test_who_is_asking_when_it_ends_is_told(served: ServedModel) -> None:
    caught: list[Exception] = []
    begun = threading.Event()

    def ask(url: str) -> None:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            begun.set()
            try:
                client.completions.create(model="small", prompt="Once", max_tokens=4000)
            except openai.APIError as error:
                caught.append(error)

    with serving(served, host="127.0.0.1", port=0, batch_max=1) as url:
        thread = threading.Thread(target=ask, args=(url,))
        thread.start()
        assert begun.wait(30)
        threading.Event().wait(1.0)
    thread.join(30)
    assert not thread.is_alive()
    assert "the server is ending" in str(caught[0])


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_leaves_ends_its_text(served: ServedModel, is_streamed: bool) -> None:
    """The next text does not wait for 4,000 tokens that nobody reads."""
    asked = {"model": "small", "prompt": "Once", "max_tokens": 4000, "temperature": 0}
    with (
        serving(served, host="127.0.0.1", port=0, batch_max=1) as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
    ):
        leaving = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        body = json.dumps({**asked, "stream": is_streamed})
        leaving.request(
            "POST", "/v1/completions", body=body, headers={"Content-Type": "application/json"}
        )
        if is_streamed:
            leaving.getresponse().read(1)
        threading.Event().wait(0.5)
        leaving.close()
        reply = client.completions.create(model="small", prompt="Once", max_tokens=2)
        assert reply.usage is not None
        assert reply.usage.completion_tokens <= 2


def test_a_port_in_use_is_named(served: ServedModel, url: str) -> None:
    port = urlsplit(url).port
    assert port is not None
    with (
        pytest.raises(EnvironmentError_, match=f"127.0.0.1:{port} cannot be listened at"),
        serving(served, host="127.0.0.1", port=port, batch_max=1),
    ):
        pass
