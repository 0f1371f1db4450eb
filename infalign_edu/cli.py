"""The command line: `align ...` is `ia.align(ia.CTRLConfig(...))` and nothing more, `check-env` looks at the machine.

Exit codes: 0 done; 1 a fault of the program, told in one line ($INFALIGN_TRACEBACK=1 shows where); 2 a setting, file or
folder that can't be used (one line on stderr) or a machine with something to mend (a FAIL line each); 130 stopped by
Ctrl-C with the run ready for --resume.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import types
import typing
from dataclasses import fields
from typing import Any, NoReturn

from infalign_edu.terminal import any_text

EXIT_OK, EXIT_FAULT, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
CODES = (
    "exit codes: 0 done; 1 a fault of the program ($INFALIGN_TRACEBACK=1 shows where); 2 a setting, file, folder or "
    "machine that can't be used; 130 stopped by Ctrl-C, go on with --resume"
)

FULL = re.compile("OutOfMemory|allocate memory|not enough memory|ALLOC_FAILED")  # torch's words for it
SMALLER = "ask for fewer prompts and samples, a smaller micro_batch or a smaller model"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest option or command, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        """Ends with status 2."""
        from infalign_edu.inputs import nearest  # here: NumPy may be what is missing

        named = re.search(r"(?:unrecognized arguments: |invalid choice: ')([^\s'=]+)", message)
        close = nearest(named[1], self._names(), 0.7) if named else ""
        print(f"{self.prog}: {' '.join(message.split())}{close or f'; see {self.prog} --help'}", file=sys.stderr)
        sys.exit(EXIT_INPUT)

    def _names(self) -> list[str]:
        """Every option and command, those of the commands too."""
        groups = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        below = [part for group in groups for part in group.items()]
        own = [option for action in self._actions for option in action.option_strings]
        return [*own, *(name for command, part in below for name in (command, *part._names()))]


def parser() -> argparse.ArgumentParser:
    """The parser, its options made from the fields of `CTRLConfig`."""
    from infalign_edu import __version__
    from infalign_edu.rl.config import CTRLConfig

    about = "Inference-aware alignment, step by step."
    top = Parser(prog="infalign_edu", description=about, epilog=CODES)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("check-env", help="say what this machine lacks for the course, and what mends it", epilog=CODES)
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    does = "calibrate, transform, train, evaluate"
    align = commands.add_parser("align", help=does, epilog=CODES, formatter_class=show_defaults)
    hints = typing.get_type_hints(CTRLConfig)
    for field in fields(CTRLConfig):
        option = f"--{field.name.replace('_', '-')}"
        if hints[field.name] is bool:
            align.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default, help=field.metadata["help"]
            )
        else:
            kind = _kind(hints[field.name])
            align.add_argument(option, type=kind, default=field.default, help=field.metadata["help"])
    return top


def _kind(hint: Any) -> type:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(kind for kind in (str, int, float) if kind in options)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; errors a user can mend are one line, never a traceback."""
    any_text()
    try:
        if (sys.argv[1:] if arguments is None else arguments) == ["check-env"]:  # before anything that may be broken
            from infalign_edu.environment import report

            return EXIT_OK if report() else EXIT_INPUT
        options = vars(parser().parse_args(arguments))
        options.pop("command")
        return _align(options)
    except KeyboardInterrupt:
        return _told("stopped; go on with --resume", EXIT_INTERRUPTED)
    except BrokenPipeError:  # `| head`; what is left in the buffer goes nowhere, else Python complains at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _told("standard output was closed before all was told", EXIT_INPUT)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _told(str(error), EXIT_INPUT)
    except BaseException as error:  # a fault of ours or of a library's, a panic of Rust's too
        if isinstance(error, SystemExit) or os.environ.get("INFALIGN_TRACEBACK"):
            raise
        if isinstance(error, MemoryError) or FULL.search(f"{type(error).__name__} {error}"):
            return _told(f"memory must suffice, got {type(error).__name__}: {error}; {SMALLER}", EXIT_INPUT)
        return _told(f"{type(error).__name__}: {error} (INFALIGN_TRACEBACK=1 shows where)", EXIT_FAULT)


def _told(message: str, code: int) -> int:
    print(f"infalign_edu: {' '.join(message.split())}", file=sys.stderr)
    return code


def _align(options: dict[str, Any]) -> int:
    from infalign_edu.rl.config import CTRLConfig

    config = CTRLConfig(**options)
    from infalign_edu.rl.ctrl import align
    from infalign_edu.rl.report import comparison_lines, win_rate_rows
    from infalign_edu.rl.runs import Interrupted

    try:
        result = align(config)
    except Interrupted as stopped:
        return _told(str(stopped), EXIT_INTERRUPTED)
    names = list(result.report["win_rates"])
    for row in win_rate_rows(result.report):
        told = "; ".join(f"{name} {cell}" for name, cell in zip(names, row[3:-1], strict=True))
        print(f"{row[0]}: beta {row[1]}, KL {row[2]} nats; {told}; lift share {row[-1]}")
    print(*comparison_lines(result.report), *result.report["notes"], sep="\n")
    print(f"report: {result.folder / 'report.html'}")
    return EXIT_OK
