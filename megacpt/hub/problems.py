# SPDX-License-Identifier: Apache-2.0
"""What the hub's client raises, in one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from megacpt.config.hub_model import HubModel
from megacpt.errors import EnvironmentError_, MegacptError, ModelError

UNREACHABLE = (OSError, *hub_errors.HfHubHTTPError.__bases__)
"""What is raised where there is no answer or a bad one; the HTTP library differs by version."""
UNAUTHORIZED, FORBIDDEN, TOO_MANY = 401, 403, 429
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@contextmanager
def telling(model: HubModel, *, called: str) -> Iterator[None]:
    """Errors in our words, and no progress bars: there is one for all files."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    except UNREACHABLE as error:
        raise problem_of(error, model=model, called=called) from error
    finally:
        if shown:
            enable_progress_bars()


def problem_of(error: BaseException, *, model: HubModel, called: str) -> MegacptError:
    refused = isinstance(_cause(error), hub_errors.HfHubHTTPError)
    kind = ModelError if refused else EnvironmentError_
    return kind(f"{called}: {reason_of(error, model=model)}.")


def _cause(error: BaseException) -> BaseException:
    """Why a file that is not in the cache could not be asked for either."""
    while isinstance(error, hub_errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def reason_of(error: BaseException, *, model: HubModel) -> str:
    """Why, and the remedy; never the text of an answer, as its addresses can hold a signature."""
    cause = _cause(error)
    if isinstance(cause, hub_errors.OfflineModeIsEnabled | hub_errors.LocalEntryNotFoundError):
        return (
            f"HF_HUB_OFFLINE is set and the hub's cache {constants.HF_HUB_CACHE} does not hold "
            f"{model}; unset it, or set HF_HOME to the cache that does"
        )
    if isinstance(cause, hub_errors.HfHubHTTPError):
        return _refusal(cause, model=model)
    if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
        place = cause.filename or constants.HF_HUB_CACHE
        return f"{place} cannot be written ({cause.strerror}); set HF_HOME to another folder"
    # Of nested errors the innermost says it in a few words.
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    why = " ".join(str(cause).split()) or type(cause).__name__
    return (
        f"the Hugging Face hub ({_endpoint()}) cannot be reached for {model} ({why}); check the "
        "network, HF_ENDPOINT and the proxy, or download it where there is a network and bring "
        "HF_HOME here"
    )


def _refusal(error: hub_errors.HfHubHTTPError, *, model: HubModel) -> str:
    status, hub = error.response.status_code, f"the Hugging Face hub ({_endpoint()})"
    if isinstance(error, hub_errors.GatedRepoError):
        return (
            f"{model.repo} is gated at {hub} and you have no access; accept its terms at "
            f"{_endpoint()}/{model.repo}, and set HF_TOKEN or log in with `hf auth login`"
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return (
            f"{hub} has no revision {model.revision} of {model.repo}; name a branch, tag or commit"
        )
    if isinstance(error, hub_errors.DisabledRepoError):
        return f"{hub} has disabled {model.repo}; use another model"
    denied = status in (UNAUTHORIZED, FORBIDDEN)
    known = "authorization" in error.response.request.headers
    if isinstance(error, hub_errors.RepositoryNotFoundError) or (denied and not known):
        return (
            f"{hub} has no repository {model.repo} that you may see; check its name, or set "
            "HF_TOKEN where it is private"
        )
    if denied:
        return (
            f"{hub} refuses your token for {model.repo} (HTTP {status}); renew HF_TOKEN or "
            "`hf auth login`"
        )
    if status == TOO_MANY:
        return f"{hub} asks you to wait (HTTP {status}); try later, or set HF_TOKEN"
    return f"{hub} answers HTTP {status} for {model}; try later"


def _endpoint() -> str:
    """Without what a mirror's address may hold of a password."""
    parts = urlsplit(str(constants.ENDPOINT))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
