"""Estimates of the remaining time as pure functions.

They use the progress so far, the elapsed time and past runs. They use no clock and no I/O, so they
work offline.
"""

from otel_progress.eta.curves import shrink
from otel_progress.eta.estimate import estimate
from otel_progress.eta.opaque import estimate_opaque, opaque_ratio
from otel_progress.eta.parallel import Parallel
from otel_progress.model import Eta
from otel_progress.records import Trajectory

__all__ = ["Eta", "Parallel", "Trajectory", "estimate", "estimate_opaque", "opaque_ratio", "shrink"]
