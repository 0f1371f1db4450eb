"""Runs in slices of time, for machines that are lent for minutes: `run` goes on where the last slice stopped."""

from infalign_edu.rl.slices.clock import Slice, SliceOver
from infalign_edu.rl.slices.work import CONTROL, Finished, run

__all__ = ["CONTROL", "Finished", "Slice", "SliceOver", "run"]
