"""Work shared by processes of this machine, or by Ray tasks."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch

from seqmix.errors import ConfigError, SeqmixError, Terminated
from seqmix.trusted import trusted_modules, trusting

# exit status of a process that was asked to stop
_ASKED = 143


def in_processes(work: Callable[..., None], args: tuple[Any, ...], jobs: int) -> None:
    """Call ``work`` in ``jobs`` processes of one thread each, and wait for all of them.

    Ctrl-C and SIGTERM are passed on as SIGTERM; exceptions are raised after the processes have ended.

    Raises:
        ConfigError: if a process was killed, or failed.
    """
    context = multiprocessing.get_context("spawn")
    given = work, args, trusted_modules()
    processes: list[BaseProcess] = [context.Process(target=_main, args=given) for _ in range(jobs)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        _end(processes)
        raise
    codes = [process.exitcode for process in processes if process.exitcode]
    if codes:
        raise ConfigError(
            f"{len(codes)} of {jobs} processes died (exit code {codes[0]}): killed, or out of memory; the same line "
            "goes on with what they left, with fewer --jobs if memory is short"
        )


def in_ray(work: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
    """Call ``work`` in ``workers`` tasks of Ray, on a running cluster or on this machine, and wait for all.

    The tasks work in this folder, which all machines see. Ray starts a task again whose machine is lost.

    Raises:
        ConfigError: if Ray is not installed.
    """
    # each trial has its line
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise ConfigError("--workers needs ray; pip install 'seqmix[scale]', or use --jobs") from e
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.WARNING)
    task = ray.remote(num_cpus=1, max_retries=3)(_task)
    started = [task.remote(os.getcwd(), work, args, trusted_modules()) for _ in range(workers)]
    try:
        ray.get(started)
    except KeyboardInterrupt:
        for each in started:
            ray.cancel(each)
        ray.wait(started, num_returns=len(started), timeout=60)
        raise


def orphaned() -> bool:
    """Whether the process that started this one has died."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _main(work: Callable[..., None], args: tuple[Any, ...], modules: tuple[str, ...]) -> None:
    """Body of a process; a terminal's Ctrl-C goes to the parent process, which passes it on once."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGTERM, _raise)
    torch.set_num_threads(1)
    try:
        with trusting(modules):
            work(*args)
    except KeyboardInterrupt:
        sys.exit(_ASKED)
    except SeqmixError as e:
        print(f"seqmix: {e}", file=sys.stderr, flush=True)
        sys.exit(1)


def _task(folder: str, work: Callable[..., None], args: tuple[Any, ...], modules: tuple[str, ...]) -> None:
    os.chdir(folder)
    sys.path += [folder] if modules and folder not in sys.path else []
    torch.set_num_threads(1)
    with trusting(modules):
        work(*args)


def _end(processes: list[BaseProcess]) -> None:
    """End processes as SIGTERM does; a second Ctrl-C ends them at once."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()


def _raise(*_: Any) -> NoReturn:
    raise Terminated
