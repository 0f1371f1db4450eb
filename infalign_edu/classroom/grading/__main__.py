"""The command line of grading: 0 when every submission has its points, 2 with one line when grading can't begin."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from infalign_edu.classroom.grading.grader import grade
from infalign_edu.classroom.masters import MASTERS
from infalign_edu.terminal import any_text


def main(arguments: list[str] | None = None) -> int:
    """Grades a folder of submissions."""
    parser = argparse.ArgumentParser(
        "infalign_edu.classroom.grading", description="Submissions to points and feedback."
    )
    parser.add_argument("submissions", type=Path, help="STUDENT/NN_name.ipynb, nbgrader's submitted/, or STUDENT.ipynb")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and the feedback")
    parser.add_argument("--hidden-seed", type=int, help="seed of the hidden tests; random, and then kept, if not given")
    parser.add_argument("--masters", type=Path, default=MASTERS, help="folder of the solved notebooks")
    parser.add_argument("--jobs", type=int, default=2, help="answers that run at the same time")
    options = parser.parse_args(arguments)
    any_text()
    try:
        if options.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {options.jobs}")
        found = grade(
            options.submissions, options.out, options.hidden_seed, options.masters, jobs=options.jobs, say=tqdm.write
        )
    except (ValueError, OSError) as error:
        print(f"grading: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"grading: stopped; the same command goes on. So far: {options.out / 'grades.csv'}", file=sys.stderr)
        return 130
    students = len({row["student"] for row in found.rows})
    print(f"{students} students: {options.out / 'grades.csv'}, {options.out / 'feedback'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
