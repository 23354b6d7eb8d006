# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong through a user's input, as one small tree of exceptions.

    MegacptError            exit code 2, one message, no traceback
    ├── ConfigError         the composed configuration breaks a rule (all violations at once)
    ├── DataError           a corpus, shard or manifest is missing, broken or of another tokenizer
    ├── ModelError          a Hugging Face folder cannot be imported, or is not healthy
    ├── CheckpointError     a checkpoint is missing, broken or of another run
    ├── EnvironmentError_   this machine lacks something: disk, permission, package, process
    ├── TrainingFault       exit code 65: loss or gradients went bad and the settings say stop
    ├── BadNode             exit code 69: a machine of the job cannot take part; another could
    ├── EndedOnRequest      exit code 85: the run was asked to end before its last step
    └── Superseded          exit code 76: a newer start of the run owns its folder

A message names the thing, the rule, the value and the remedy. Anything else that is raised is a
defect of megacpt itself and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MegacptError(Exception):
    """A problem the user can fix; its message is all the user needs."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule of a configuration: ``parallel.tp=4 <rule>; <remedy>``."""

    path: str
    value: object
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}={self.value} {self.rule}; {self.remedy}"


class ConfigError(MegacptError):
    """The configuration cannot be used. Carries every violation found, not only the first."""

    def __init__(self, problem: str | Sequence[Violation]) -> None:
        self.violations = () if isinstance(problem, str) else tuple(problem)
        super().__init__(problem if isinstance(problem, str) else self._render())

    def _render(self) -> str:
        if len(self.violations) == 1:
            return str(self.violations[0])
        lines = "\n".join(f"  {n}. {v}" for n, v in enumerate(self.violations, start=1))
        return f"{len(self.violations)} settings cannot be used as they are:\n{lines}"


class DataError(MegacptError):
    """A corpus, token shard or manifest cannot be used."""


class ModelError(MegacptError):
    """A Hugging Face model folder cannot be imported as it is."""


class CheckpointError(MegacptError):
    """A checkpoint cannot be used by this run."""


class EnvironmentError_(MegacptError):
    """This machine cannot do what was asked: disk, permission, package or process."""


class TrainingFault(MegacptError):
    """Loss or gradients went bad, and the settings or the number of such events end the run."""

    exit_code = 65  # EX_DATAERR: starting again without a change ends the same way


class EndedOnRequest(MegacptError):
    """A signal, the time limit or the file RUN_DIR/request asked the run to end; no fault."""

    exit_code = 85  # Start it again, and it goes on.


class Superseded(MegacptError):
    """A newer start of the same run has taken over its folder; this one must write nothing more."""

    exit_code = 76  # EX_PROTOCOL: never started again, the newer one is at work


class BadNode(MegacptError):
    """The preflight has found machines that cannot take part; RUN_DIR/bad_nodes.json has them."""

    exit_code = 69  # EX_UNAVAILABLE: of use again as soon as those machines are left out
