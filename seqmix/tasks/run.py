"""The run folder ``runs/<name>/<time>-seed<k>/``: configuration, environment, metrics, checkpoints, results.

Files are written atomically, and training resumes from ``last.ckpt`` exactly.
"""

import json
import math
import os
import shutil
import signal
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from seqmix.environment import environment
from seqmix.errors import ConfigError, SeqmixError, Terminated
from seqmix.tasks._processes import announce, from_first, gathered, largest
from seqmix.tasks._random_state import random_state, set_random_state
from seqmix.tasks.checkpoint import CheckpointFiles
from seqmix.tasks.folders import new_folder, remove_left
from seqmix.tasks.lock import locked
from seqmix.tasks.rows import append_rows, keep_rows, write
from seqmix.tasks.task import Task
from seqmix.whole import writing

# signal that SLURM is usually configured to send before preemption; Windows has none
_PREEMPTED = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))


class Run(Checkpoint):
    """Callback that keeps the folder of one run: configuration, metrics, checkpoints and results.

    ``best.ckpt`` has the best value of the task's ``monitor``; of equal values that of the lower loss, else the later.
    ``last.ckpt`` is where to resume: the latest of the last validation, the last epoch, and the step after Ctrl-C,
    SIGTERM or SIGUSR1. It holds the state of every random generator, so that a resumed run ends in the weights of an
    uninterrupted one, bit for bit on a CPU. Training stops before the first step whose loss is not finite. On several
    devices the first process writes, and all stop at the same step.

    Args:
        parent: folder of all runs of this configuration, ``runs/<name>``.
        seed: seed of the run, part of the name of its folder.
        config: text of the ``config.yaml`` that makes this run again.
        folder: folder of an earlier run to go on in. Default: a new one.
        lines: print one line for each validation.
    """

    def __init__(self, parent: Path, seed: int, config: str, *, folder: Path | None = None, lines: bool = False):
        self.parent, self.seed, self.config, self.folder, self.lines = parent, seed, config, folder, lines
        # score and loss of the best validation, lower is better
        self.best, self.seconds = (math.inf, math.inf), 0.0
        self._started: float | None = None
        self._losses: list[torch.Tensor] = []
        self._stop: type[KeyboardInterrupt] | None = None
        self._handlers: dict[int, Any] = {}
        self._new = self._resumed = False
        self._lock = ExitStack()

    def kept(self, name: str) -> Path | None:
        """The checkpoint ``best`` or ``last``, None where there is none yet."""
        path = self.folder / f"{name}.ckpt" if self.folder else None
        return path if path and path.exists() else None

    def elapsed(self) -> float:
        """Seconds of training until now, those before an interruption included."""
        return self.seconds if self._started is None else self.seconds + time.perf_counter() - self._started

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder, now that the data has proved usable."""
        announce(
            "seqmix: another process of this run has ended, and the run with it: its own message says why, unless "
            "it was killed, most often for want of memory; --ckpt_path last resumes the training"
        )
        # a fast_dev_run writes nothing
        if getattr(trainer, "fast_dev_run", False) or stage not in ("fit", "test") or (stage == "test" and self.folder):
            return
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        made: Path | SeqmixError | None = None
        if trainer.is_global_zero:
            try:
                made = self._make(trainer, stage)
            except SeqmixError as e:
                made = e
        made = from_first(trainer, made)
        if isinstance(made, SeqmixError):
            raise made
        self.folder = made

    def _make(self, trainer: pl.Trainer, stage: str) -> Path:
        data = getattr(trainer, "datamodule", None)
        # data of the user's own may have none
        fingerprint = getattr(data, "fingerprint", lambda: "")
        facts = {**environment(), "device": device_name(trainer), "data": fingerprint()}
        try:
            self._new = self.folder is None
            with writing(self.parent, "free it, or choose another place with --trainer.default_root_dir"):
                self.parent.mkdir(parents=True, exist_ok=True)
            # between creation and lock no other process may take the folder for an abandoned one
            with locked(self.parent / ".lock"):
                folder = self.folder or new_folder(self.parent, self.seed)
                if stage == "fit":
                    self._lock.enter_context(locked(folder / "lock", wait=False))
                    remove_left(self.parent)
            write(folder / "config.yaml", self.config)
            write(folder / "env.json", json.dumps(facts, indent=2) + "\n")
            return folder
        except BlockingIOError as e:
            raise ConfigError(
                f"another process trains in {str(self.folder)!r}; wait for its end, or leave --ckpt_path out for a run "
                "of its own"
            ) from e

    def stop(self) -> bool:
        """Stop after this step, as after Ctrl-C; False if that was asked for before."""
        asked = self._stop is not None
        self._stop = self._stop or KeyboardInterrupt
        return not asked

    def release(self) -> None:
        """Let other processes go on in the folder."""
        self._lock.close()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock: the closed form is fitted next."""
        self._started = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.seconds, self._started = self.elapsed(), None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over Ctrl-C, SIGTERM and SIGUSR1, which wait for the end of a step; see that a validation is due."""
        self._plan_validation(trainer)
        if trainer.global_rank and not self._resumed:
            # each process draws numbers of its own, for dropout; the weights and shuffles of all are made already
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *_PREEMPTED):
                if number not in _PREEMPTED or signal.getsignal(number) == signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, self._interrupt)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Stop while the weights are finite if the loss is not."""
        if largest(trainer, int(not bool(loss.isfinite()))):
            losses = gathered(trainer, float(loss.detach()))
            self._diverge(trainer, f"the loss is {next(x for x in losses if not math.isfinite(x))}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here after Ctrl-C, unless a validation or the end of the epoch is next: then stop after that."""
        # Lightning divides the loss of a batch that shares its step
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        period = trainer.val_check_batch
        validates = trainer.is_last_batch or (isinstance(period, int) and (batch_idx + 1) % period == 0)
        stop = self._agreed(trainer)
        if stop and not validates and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._halt(trainer, stop)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the metrics, and keep the weights if they are the best."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        task = cast(Task, pl_module)
        self._check_weights(trainer, task)
        better = self._improved(trainer, task)
        if better:
            self._save(trainer, "best")
        self._record(trainer, task, better)
        if not trainer.is_last_batch:
            self._save(trainer, "last")
            if stop := self._agreed(trainer):
                self._halt(trainer, stop)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the end of the epoch the place to resume from."""
        self._check_weights(trainer, pl_module)
        if stop := self._agreed(trainer):
            self._halt(trainer, stop)
        self._save(trainer, "last")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back; a run that was refused leaves no folder."""
        self._release()
        if self._new and trainer.is_global_zero and self.folder and not any(self.folder.glob("[!.]*.ckpt")):
            self.release()
            shutil.rmtree(self.folder)
            self.folder = None
            # the folders above it too, if they hold nothing else
            with suppress(OSError):
                self.parent.rmdir()
                self.parent.parent.rmdir()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not save: random generators, best score, time spent, whether training is over."""
        checkpoint["run"] = {
            "best": list(self.best),
            "seconds": self.elapsed(),
            "over": trainer.should_stop,
            "random": gathered(trainer, random_state()),
            # of the steps since the last validation
            "losses": gathered(trainer, torch.stack(self._losses).cpu() if self._losses else torch.zeros(0)),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from the state of ``on_save_checkpoint`` when training is resumed."""
        if trainer.state.fn != "fit":
            return
        if "run" not in checkpoint:
            raise ConfigError(
                "the checkpoint was not written by `seqmix fit`, which cannot resume it; use it with `seqmix test`"
            )
        state = checkpoint["run"]
        self.best, self.seconds = tuple(state["best"]), state["seconds"]
        if self.folder and trainer.is_global_zero:
            # rows after the checkpoint are written again
            keep_rows(self.folder / "metrics.csv", lambda row: int(row["step"]) <= checkpoint["global_step"])
        trainer.should_stop = state["over"]
        states, self._resumed = state["random"], True
        set_random_state(states[trainer.global_rank % len(states)])
        # earlier versions did not keep them
        losses = state.get("losses", [torch.zeros(0)])
        self._losses = list(losses[trainer.global_rank % len(losses)].to(trainer.strategy.root_device))

    def keep(self, trainer: pl.Trainer, task: Task) -> None:
        """Record the validation that follows a fit without steps, and keep its weights, the best and the last."""
        self._check_weights(trainer, task)
        self._record(trainer, task, self._improved(trainer, task))
        for name in ("best", "last"):
            self._save(trainer, name)

    def _improved(self, trainer: pl.Trainer, task: Task) -> bool:
        """Whether the last validation is the best so far, which is remembered."""
        scores = {name: float(trainer.callback_metrics[f"val_{name}"]) for name in task.watched}
        first = scores[task.watched[0]] * (1 if task.better == "lower" else -1)
        now = (first, scores.get("loss", first))
        # an accuracy is finite even where the loss is not; of validations that are alike the later is taken
        better = all(map(math.isfinite, scores.values())) and now <= self.best
        if better:
            self.best = now
        return better

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        if self.folder is None:
            return
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def _record(self, trainer: pl.Trainer, task: Task, better: bool) -> None:
        if self.folder is None:
            return
        scores = {name: float(trainer.callback_metrics[f"val_{name}"]) for name in task.watched}
        losses = gathered(trainer, torch.stack(self._losses).mean().item()) if self._losses else []
        self._losses.clear()
        if not trainer.is_global_zero:
            return
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "train_loss": sum(losses) / len(losses) if losses else "",
            **{f"val_{name}": score for name, score in scores.items()},
            **task.remarks(),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(self.elapsed(), 2),
        }
        append_rows(self.folder / "metrics.csv", [row])
        if self.lines:
            measured = " ".join(f"{name} {score:.4f}" for name, score in {**scores, **task.remarks()}.items())
            done = "closed form"
            if row["step"]:
                done = f"epoch {row['epoch']}/{trainer.max_epochs}  step {row['step']}  train {row['train_loss']:.4f}"
            print(
                f"{done}  val {measured}  {row['seconds']:.1f} s{'  best' * better}",
                flush=True,
            )

    def _plan_validation(self, trainer: pl.Trainer) -> None:
        """Validate at the last step of a training that ends before its first validation."""
        batches, epochs = trainer.num_training_batches, trainer.check_val_every_n_epoch
        # unset where validations go by time
        period = math.inf if trainer.val_check_batch is None else trainer.val_check_batch
        if trainer.max_epochs is not None and epochs is not None and 0 <= trainer.max_epochs < epochs:
            raise ConfigError(
                f"no validation is due in {trainer.max_epochs} epochs: trainer.check_val_every_n_epoch = {epochs}; "
                "lower it"
            )
        first = period if epochs is None else batches * (epochs - 1) + min(batches, period)
        last = trainer.max_steps * trainer.accumulate_grad_batches
        if trainer.max_steps > 0 and not trainer.global_step and last < first:
            trainer.check_val_every_n_epoch = epochs and 1
            if epochs is None or last <= batches:
                trainer.val_check_batch = last

    def _check_weights(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        unusable = next((name for name, p in task.named_parameters() if not bool(p.isfinite().all())), None)
        # a process may hold a part of the weights only
        unusable = next((name for name in gathered(trainer, unusable) if name), None)
        if unusable:
            self._diverge(trainer, f"{unusable} is not finite")

    def _diverge(self, trainer: pl.Trainer, what: str) -> NoReturn:
        kept = [f"{name}.ckpt" for name in ("best", "last") if self.kept(name)]
        raise ConfigError(
            f"training diverged at step {trainer.global_step + 1}: {what}; lower model.optim.lr, then fit again"
            + (f"; {' and '.join(kept)} in {self.folder} are of before" if kept else "")
        )

    def _agreed(self, trainer: pl.Trainer) -> type[KeyboardInterrupt] | None:
        """Reason to stop that any of the processes was given, the same in all of them."""
        stops = (None, KeyboardInterrupt, Terminated)
        return stops[largest(trainer, stops.index(self._stop))]

    def _interrupt(self, number: int, _: Any) -> None:
        self._stop = KeyboardInterrupt if number == signal.SIGINT else Terminated
        # the second time stops at once
        self._release()
        again = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # os.write, not print: print may be what was interrupted, and is not reentrant
        os.write(1, f"\nstopping after this step; {again} again stops at once\n".encode())

    def _halt(self, trainer: pl.Trainer, stop: type[KeyboardInterrupt]) -> NoReturn:
        self._save(trainer, "last")
        raise stop

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def device_name(trainer: pl.Trainer) -> str:
    """Device of the run: ``cpu``, or name and number of the GPUs."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
