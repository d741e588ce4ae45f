"""Parts of Optuna for resumable studies: a sampler that repeats its draws, and a crash-safe journal."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from seqmix.tasks.lock import locked


class Seeded(BaseSampler):
    """Tree-structured Parzen estimator, seeded anew for each trial.

    Optuna seeds a sampler when it is made: a study that goes on would draw the first trials again.

    Args:
        seed: seed of the study.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._sampler = self._of(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed the draws of a trial."""
        self._sampler = self._of(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Options that are drawn together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of options that are drawn together."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Value of an option that is drawn by itself."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Report the result of a trial to the estimator."""
        self._sampler.after_trial(study, trial, state, values)

    def _of(self, number: int) -> TPESampler:
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is called experimental in Optuna 4
            return TPESampler(seed=seed, constant_liar=True)


def journal(file: Path) -> JournalStorage:
    """Storage in a file that several processes append to; a line that a killed process has begun is removed."""
    lock = _Lock(file.with_name(f"{file.name}.lock"))
    lock.acquire()
    try:
        written = file.read_bytes() if file.exists() else b""
        if written and not written.endswith(b"\n"):
            with file.open("r+b") as f:
                f.truncate(written.rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))  # pyright: ignore[reportArgumentType]


class _Lock:
    """Lock of a journal that the operating system frees when its process dies."""

    def __init__(self, path: Path):
        self._path, self._held = path, ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held.enter_context(locked(self._path))
        return True

    def release(self) -> None:
        """Let the next process write."""
        self._held.close()
