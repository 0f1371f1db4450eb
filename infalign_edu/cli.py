"""The command line: `align ...` is `ia.align(ia.CTRLConfig(...))` and nothing more, `check-env` looks at the machine.

Exit codes: 0 done, 2 a setting, file or folder that can't be used (one line on stderr) or a machine with something to
mend (a FAIL line each), 130 stopped by Ctrl-C with the run ready for --resume.
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from dataclasses import fields
from typing import Any

EXIT_OK, EXIT_INPUT, EXIT_INTERRUPTED = 0, 2, 130


def parser() -> argparse.ArgumentParser:
    """The parser, its options made from the fields of `CTRLConfig`."""
    from infalign_edu import __version__
    from infalign_edu.rl.config import CTRLConfig

    top = argparse.ArgumentParser(prog="infalign_edu", description="Inference-aware alignment, step by step.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("check-env", help="say what this machine lacks for the course, and what mends it")
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    align = commands.add_parser("align", help="calibrate, transform, train, evaluate", formatter_class=show_defaults)
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
    if (sys.argv[1:] if arguments is None else arguments) == ["check-env"]:  # before anything that may be broken
        from infalign_edu.environment import report

        return EXIT_OK if report() else EXIT_INPUT
    options = vars(parser().parse_args(arguments))
    options.pop("command")
    from infalign_edu.rl.config import CTRLConfig
    from infalign_edu.rl.runs import Interrupted

    try:
        config = CTRLConfig(**options)
        from infalign_edu.rl.ctrl import align
        from infalign_edu.rl.report import comparison_lines, win_rate_rows

        result = align(config)
    except Interrupted as stopped:
        print(f"infalign_edu: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("infalign_edu: stopped; go on with --resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"infalign_edu: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_INPUT
    names = list(result.report["win_rates"])
    for row in win_rate_rows(result.report):
        told = "; ".join(f"{name} {cell}" for name, cell in zip(names, row[3:-1], strict=True))
        print(f"{row[0]}: beta {row[1]}, KL {row[2]} nats; {told}; lift share {row[-1]}")
    print(*comparison_lines(result.report), *result.report["notes"], sep="\n")
    print(f"report: {result.folder / 'report.html'}")
    return EXIT_OK
