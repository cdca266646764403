"""What can go wrong, as types. Each error is one line: what, where, why, and what to do next.

The exit codes are a promise to scripts (docs/cli.md lists them).
"""

from __future__ import annotations


class AccelcError(Exception):
    """Base of every error accelc raises on purpose.

    what: the failure in a few words. where: the file, node and operator. why: the reason. hint: what to do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.what, self.why) if part)
        text = f"{head}; {self.hint}" if self.hint else head
        return " ".join(text.split())


class UsageError(AccelcError):
    """The request itself is wrong: an unknown name, a value out of range, a missing file."""

    exit_code = 2


class BackendError(AccelcError):
    """The execution provider cannot do what was asked on this machine."""

    exit_code = 2


class ModelError(AccelcError):
    """The model is broken and is refused."""

    exit_code = 3


class VerifyError(AccelcError):
    """A result differs from the original and no smaller set of changes could be kept."""

    exit_code = 4


class PassError(AccelcError):
    """A pass failed or broke the structure of the model."""

    exit_code = 5


class RuleError(PassError):
    """A rule built a patch that the driver refuses."""


class PluginError(AccelcError):
    """A plugin cannot be loaded, or two of them claim one name."""

    exit_code = 6
