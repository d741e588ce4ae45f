"""Trials of a study: claimed by one process each, trained, pruned, and resumed after an interruption."""

import io
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from seqmix.commands._workers import orphaned
from seqmix.commands.train import Train
from seqmix.errors import ConfigError, WriteError
from seqmix.search import Space, combinations, drawn, make_study
from seqmix.tasks.lock import locked
from seqmix.tasks.rows import read_rows
from seqmix.tasks.run import Run
from seqmix.whole import refusal

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

# times that the process of a trial may die before the trial counts as failed
_DEATHS = 3


@dataclass(frozen=True)
class Search:
    """A study, as every process needs it.

    Args:
        argv: options of ``seqmix fit``.
        space: options that vary, and their values.
        folder: folder of the study.
        trials: number of trials.
        pruner: rule that stops unpromising trials early.
        seed: seed of the draws.
        metric: the validation metric that trials are compared by.
        maximize: greater values are better.
        deadline: when to stop, in seconds since the epoch.
    """

    argv: tuple[str, ...]
    space: Space
    folder: Path
    trials: int
    pruner: str
    seed: int
    metric: str
    maximize: bool
    deadline: float

    def study(self) -> "Study":
        """The study with its trials so far."""
        file = self.folder / "study.journal"
        return make_study(self.folder.name, maximize=self.maximize, pruner=self.pruner, seed=self.seed, file=file)


def words(values: Mapping[str, Any]) -> str:
    """The values of a trial in one line, as typed on the command line."""
    return " ".join(f"{name}={f'{x:.4g}' if isinstance(x, float) else x}" for name, x in values.items())


def run_trials(search: Search) -> None:
    """Run trials until all are done or claimed by other processes, or the time is over."""
    study = search.study()
    while time.time() < search.deadline and not orphaned():
        with ExitStack() as held:
            trial = _claim(study, search, held)
            if trial is None:
                return
            _run(study, trial, search)


def _claim(study: "Study", search: Search, held: ExitStack) -> "Trial | None":
    """The next trial, locked for this process: one whose process has ended, or a new one; None if none is left."""
    import optuna

    def lock(number: int) -> None:
        held.enter_context(locked(search.folder / f".trial-{number}.lock", wait=False))

    with locked(search.folder / ".claim.lock"):
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state.is_finished():
                continue
            if "same_as" in frozen.user_attrs:
                _repeat(study, frozen, trials[frozen.user_attrs["same_as"]])
                continue
            try:
                lock(frozen.number)
            except BlockingIOError:
                continue
            # a resumed trial keeps its number, values and validations
            trial = optuna.trial.Trial(study, frozen._trial_id)
            starts = frozen.user_attrs.get("starts", 0)
            if starts < _DEATHS:
                trial.set_user_attr("starts", starts + 1)
                return trial
            _fail(study, trial, f"its process died {starts} times; is there enough memory?")
            held.close()
        while len(trials := study.get_trials(deepcopy=False)) < search.trials:
            if len({tuple(sorted(t.params.items())) for t in trials}) >= combinations(search.space):
                return None
            trial = study.ask()
            drawn(trial, search.space)
            same = next((t for t in trials if t.params == trial.params), None)
            if same is None:
                lock(trial.number)
                trial.set_user_attr("starts", 1)
                return trial
            trial.set_user_attr("same_as", same.number)
            _repeat(study, study.get_trials(deepcopy=False)[trial.number], same)
    return None


def _repeat(study: "Study", frozen: "FrozenTrial", same: "FrozenTrial") -> None:
    """Give a trial the result of another one with the same values, as soon as there is one."""
    if same.state.is_finished():
        study.tell(frozen.number, same.value if same.state.name == "COMPLETE" else None, same.state)


def _run(study: "Study", trial: "Trial", search: Search) -> None:
    """Train once, and report the result to the study."""
    import optuna

    values = drawn(trial, search.space)
    name, said = f"{trial.number + 1}/{search.trials}", words(values)
    output = io.StringIO()
    try:
        # the output of a run is in its folder
        with redirect_stdout(output), redirect_stderr(output):
            value, pruned = _train(trial, values, search)
    # a full disk is not the fault of the values: the trial goes on when there is room
    except (KeyboardInterrupt, WriteError):
        trial.set_user_attr("starts", 0)
        raise
    # a trial may fail of anything, and the others go on
    except (Exception, SystemExit) as e:
        if (refused := refusal(e)) is not None:
            trial.set_user_attr("starts", 0)
            raise refused from e
        told = output.getvalue().strip().splitlines()[-2:] if isinstance(e, SystemExit) else str(e).split("\n")
        reason = " ".join(" ".join(told).split()) or type(e).__name__
        _fail(study, trial, reason)
        print(f"{name}  {said}  failed: {reason}", file=sys.stderr, flush=True)
        return
    if value is None:
        trial.set_user_attr("starts", 0)
        print(f"{name}  {said}  stopped: the time is over; it can be gone on with", flush=True)
        return
    if pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)
    print(f"{name}  {said}  validation {search.metric} {value:.4f}{'  pruned' * pruned}", flush=True)


def _train(trial: "Trial", values: Mapping[str, Any], search: Search) -> tuple[float | None, bool]:
    """Best validation so far, and whether the trial was ended early; None if the time was over first."""
    changed = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    cli = Train("fit", [*search.argv, *changed, "--test", "false", "--resume", "auto"])
    watch = _Watch(trial, cli.run, lambda: time.time() > search.deadline or orphaned())
    # the run itself comes after it: it saves what it needs to be gone on with
    cli.trainer.callbacks.insert(0, watch)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        cli.run_command()
    except KeyboardInterrupt:
        if not (watch.pruned or watch.stopped):
            raise
    finally:
        cli.run.release()
    if watch.stopped:
        return None, False
    if cli.run.folder is None:
        raise ConfigError("a study needs a model that is trained and a run folder; leave trainer.fast_dev_run out")
    trial.set_user_attr("run", str(cli.run.folder))
    trial.set_user_attr("seconds", round(cli.run.elapsed(), 1))
    return cli.run.best[0] * (-1 if search.maximize else 1), watch.pruned


def _fail(study: "Study", trial: "Trial", reason: str) -> None:
    import optuna

    trial.set_user_attr("error", reason)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)


class _Watch(Callback):
    """Callback that reports each validation to the study, and stops pruned runs and those out of time."""

    def __init__(self, trial: "Trial", run: Run, over: Callable[[], bool]):
        self.trial, self.run, self.over = trial, run, over
        self.pruned = self.stopped = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if the time is over."""
        if not self.stopped and self.over():
            self.stopped = self.run.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the first of the watched metrics under the number of the validation."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.run.folder is None:
            return
        # the run keeps the rows of the validations that it goes on after
        number = len(read_rows(self.run.folder / "metrics.csv")) + 1
        task: Any = pl_module
        # one that was reported before an interruption is not reported again
        if number not in self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values:
            self.trial.report(float(trainer.callback_metrics[task.monitor]), number)
        last = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if not last and self.trial.should_prune():
            self.pruned = self.run.stop()
