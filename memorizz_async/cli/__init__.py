"""`memorizz-async`: the command line. One file per command; `app.py` has the table of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from click.exceptions import Exit

from memorizz_async.cli.app import COMPLETE_VARIABLE, PROGRAM, app
from memorizz_async.cli.errors import FAILED, exit_code_of, report_error
from memorizz_async.cli.interrupt import INTERRUPTED, bounded_interrupt, print_interrupted
from memorizz_async.cli.output import discard_output, log_everything, prepare_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after the program's name; None reads them from `sys.argv`.

    Returns:
        The exit code: 0 for success, 1 if the command failed, 2 for an invalid argument or
        setting, 130 after Ctrl-C.
    """
    prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _complete() if COMPLETE_VARIABLE in os.environ else _run(words)
        print(end="", flush=True)
    except OSError as error:  # of standard output: `| head` has closed it, or the disk is full
        discard_output()
        if not isinstance(error, BrokenPipeError):
            print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        return FAILED
    return code


def _run(words: list[str]) -> int:
    """Run the command and report its errors. Raises OSError only for standard output."""
    options = words[: words.index("--")] if "--" in words else words
    debug, as_json = "--debug" in options, "--json" in options
    try:
        if debug:
            log_everything()
        with bounded_interrupt(), app.make_context(PROGRAM, words) as context:
            app.invoke(context)
    except Exit as end:  # --help and --version
        return end.exit_code
    except KeyboardInterrupt:
        print_interrupted()
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - reported, with an exit code
        report_error(error, words, as_json=as_json, traceback=debug)
        return exit_code_of(error)
    return 0


def _complete() -> int:
    """Print what the shell asks for: its completion script, or the words that can follow."""
    from click.shell_completion import shell_complete

    return shell_complete(app, {}, PROGRAM, COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])
