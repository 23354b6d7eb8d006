# SPDX-License-Identifier: Apache-2.0
"""What a request is told that cannot be answered, in the shape in which clients expect it."""

from __future__ import annotations

from http import HTTPStatus


class ApiError(Exception):
    """``kind``: OpenAI's name of what is wrong. ``param``: the field, if it is one."""

    def __init__(
        self,
        message: str,
        *,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        kind: str = "invalid_request_error",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    @property
    def body(self) -> dict[str, object]:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": None}
        return {"error": error}
