"""A transaction, then a convergence: the one way in which commands change the world."""

from stackctl.operation.outcome import Done, Failure, PlannedStep

__all__ = ["Done", "Failure", "PlannedStep"]
