"""Exit status of a command, as a shell reports it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final

EXIT_NOT_EXECUTABLE: Final = 126
"""Exit code of a shell for a file that cannot be executed."""


EXIT_NOT_FOUND: Final = 127
"""Exit code of a shell for a command that was not found."""


SIGNAL_BASE: Final = 128
"""A shell reports a command that a signal ended as this number plus that of the signal."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """End of a command: its exit code, or the number of the signal that ended it."""

    code: int
    signal_number: int | None = None

    @classmethod
    def from_wait_status(cls, status: int) -> ExitStatus:
        """Return the status that ``waitpid`` returned."""
        code = os.waitstatus_to_exitcode(status)
        return cls(SIGNAL_BASE - code, -code) if code < 0 else cls(code)

    @property
    def reason(self) -> str:
        """Text such as ``exit status 3`` or ``killed by SIGKILL``."""
        if self.signal_number is None:
            return f"exit status {self.code}"
        return f"killed by {get_signal_name(self.signal_number)}"


def get_signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGTERM``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
