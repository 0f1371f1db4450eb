"""Exercises of one notebook."""

from infalign_edu.classroom.exercise import Exercise

EXERCISES: tuple[Exercise, ...] = ()
