"""``seqmix <command>``: find the command, then import what it needs, and no sooner."""

import difflib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import seqmix
from seqmix.commands.short_help import short_help
from seqmix.errors import SeqmixError, Terminated
from seqmix.importing import load
from seqmix.memory import exhausted, ran_out
from seqmix.trusted import named_in, take_option, trusting
from seqmix.whole import refusal

COMMANDS = {
    "fit": "train a model, then test its best weights and print them with the baselines",
    "validate": "evaluate a checkpoint on the validation set",
    "test": "evaluate a checkpoint on the test set, with the baselines",
    "predict": "write the forecasts of a checkpoint; with --images, classify image files",
    "forecast": "forecast every series of a CSV, Excel or parquet file",
    "classify": "train a classifier on labeled series in a file, and classify others",
    "impute": "fill the missing values of a table in a file",
    "detect": "score every row of a table in a file: which are anomalous",
    "generate": "continue a text with a causal language model",
    "list": "list mixers, models, data sets and configs",
    "info": "show versions, device, and which kernels run",
    "matrix": "draw the mixing matrix of a mixer",
    "sweep": "train a config with every combination of options and seeds",
    "tune": "search the options of a config for the best validation, with Optuna",
    "runs": "list the runs of a folder: what was trained, what was changed, and the results",
    "rerun": "train a run again from its folder, and compare every metric",
    "report": "print the recorded results as Markdown tables, or draw them",
    "bench": "measure time and memory of a mixer at several lengths, and of attention",
}
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
HELP = f"""usage: seqmix <command> [options]

{chr(10).join(f"  {name:10}{text}" for name, text in COMMANDS.items())}

`seqmix <command> --help` shows the options. To start, without a download:
  seqmix fit --config configs/demo.yaml
"""


def main() -> None:
    """Run the command in ``sys.argv``, and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # characters that the output's encoding lacks are replaced: an arrow should not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except OSError as e:
        if not isinstance(e, BrokenPipeError) and refusal(e) is None:
            raise
        # `head` closed the pipe, or the disk is full: write nothing more, not even when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141 if isinstance(e, BrokenPipeError) else 1
        if code == 1:
            print(f"seqmix: {refusal(e)}", file=sys.stderr)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code.

    It is 0, 1 for a user's error, 2 for wrong options, 130 after Ctrl-C, and 143 after SIGTERM.
    """
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"seqmix {seqmix.__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        print(f"seqmix: unknown command {command!r}. {hint}Run `seqmix --help`.", file=sys.stderr)
        return 2
    if command in TRAINER_COMMANDS and rest in (["--help"], ["-h"]):
        print(short_help(command, COMMANDS[command]), end="")
        return 0
    # let the threads of torch and of our kernels sleep between operations: spinning halves the speed of a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options, modules = take_option(rest[:1] if rest == ["--help", "all"] else rest)
        modules += named_in(options)
        if modules:
            _find_modules_here()
        with trusting(modules), _terminable():
            module = load(f"seqmix.commands.{_module(command, options)}")
            # lightning has a format of its own since it was imported
            with _warnings_in_one_line():
                module.main(command, options)
    except SeqmixError as e:
        print(f"seqmix: {e}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError, OSError) as e:
        if isinstance(e, OSError) and (refused := refusal(e)) is not None:
            print(f"seqmix: {refused}", file=sys.stderr)
            return 1
        if not ran_out(e):
            raise
        print(f"seqmix: {exhausted(e, 'give it less data or a smaller model, or end other programs')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        ended = isinstance(e, Terminated)
        print("; ".join(["seqmix: terminated" if ended else "seqmix: interrupted", *e.args]), file=sys.stderr)
        return 143 if ended else 130
    return 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print warnings without the file that they come from, unless it is one of the user's own."""
    before, ours = warnings.formatwarning, os.path.dirname(seqmix.__file__)

    def one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> str:
        installed = filename.startswith(ours) or "site-packages" in filename
        return f"seqmix: {'' if installed else f'{filename}:{lineno}: '}{' '.join(str(message).split())}\n"

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise ``Terminated`` on SIGTERM: without it, the process ends without a word, or Lightning ends it as done."""

    def end(*_: Any) -> NoReturn:
        raise Terminated

    # only the main thread may set handlers
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _find_modules_here() -> None:
    """Let Python find modules in the current folder, unless ``python -P`` or ``PYTHONSAFEPATH`` forbids it.

    The folder is searched last: a ``csv.py`` in it is not taken for Python's own.
    """
    safe = os.environ.get("PYTHONSAFEPATH") or getattr(sys.flags, "safe_path", False)
    if not safe and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _module(command: str, options: list[str]) -> str:
    """Name of the module of a command; one of them has two, told apart by an option."""
    if command == "predict" and any(option.partition("=")[0] == "--images" for option in options):
        return "predict_images"
    return "train" if command in TRAINER_COMMANDS else command
