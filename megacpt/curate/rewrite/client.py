# SPDX-License-Identifier: Apache-2.0
"""The model that rewrites documents, and documents that it will not have."""

from __future__ import annotations

from megacpt.curate.rewrite.request import ModelRequest
from megacpt.curate.rewrite.settings import EndpointConfig
from megacpt.endpoint.client import Client, Refused, Server, checked_url, key_of
from megacpt.endpoint.reply import Reply, read_chat_reply

REFUSALS_MAX = 8
"""... one after another from the first request on: then it is no document's fault."""


class RewriteClient:
    """Sends requests, in any thread."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        key_setting = "rewrite.endpoint.key_variable"
        url = checked_url(endpoint.url, setting="rewrite.endpoint.url", key_setting=key_setting)
        self._connection = Client(
            Server(
                url=f"{url}/chat/completions",
                key=key_of(endpoint.key_variable, setting=key_setting),
                timeout_s=endpoint.timeout_s,
                retries=endpoint.retries,
                remedy="see to it and start the same command again: "
                f"the replies so far are in {endpoint.cache}.",
            )
        )
        self._answered = False
        self._refusals = 0

    def stop(self) -> None:
        self._connection.stop()

    def ask(self, request: ModelRequest) -> Reply:
        try:
            reply = self._connection.post(request.body, read=read_chat_reply)
        except Refused as error:
            return self._refused(error)
        self._answered = True
        return reply

    def _refused(self, error: Refused) -> Reply:
        self._refusals += 1
        if not self._answered and self._refusals >= REFUSALS_MAX:
            raise self._connection.failure(str(error)) from error
        return Reply(str(error), problem="refused by the endpoint")
