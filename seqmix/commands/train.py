"""``seqmix fit | validate | test | predict``: LightningCLI with a parser for the given command only."""

import os
import shlex
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor

import seqmix.data
import seqmix.tasks
from seqmix.commands._causes import passed_through, root
from seqmix.commands._classes import prepare_parser
from seqmix.commands._parser import Parser
from seqmix.commands._results import print_rows, rows_of, write_predictions
from seqmix.commands._settings import MOMENTARY, differences, digest, flat, keeps_settings, matching_run
from seqmix.commands._trainer import check_trainer, explaining, is_of_trainer, trainer_error
from seqmix.commands.configs import with_paths
from seqmix.commands.outputs import check_writable
from seqmix.errors import ConfigError, OutOfMemory, ProcessDied, SeqmixError, WriteError
from seqmix.importing import load_names
from seqmix.models import Densify, ForecastModelFactory
from seqmix.ops.allocator import tune_allocator
from seqmix.tasks import Task
from seqmix.tasks.checkpoint import read_checkpoint
from seqmix.tasks.messages import silence
from seqmix.tasks.rows import append_rows
from seqmix.tasks.run import Run
from seqmix.trusted import trusted_modules

# configs name classes that have been imported
for _package in (seqmix.data, seqmix.tasks):
    load_names(_package)

# where we differ from Lightning; a config or a flag overrides each
TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "gradient_clip_val": 1.0,
    "devices": 1,
    "logger": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
# settings of configs by file and time of change: every run of a sweep asks for those of the same one
_NAMED: dict[tuple[Path, int], dict[str, Any]] = {}
LINKED = (
    "n_channels",
    "series",
    "vocab_size",
    "max_len",
    "n_classes",
    "class_names",
    "input_cfg",
    "pairs",
)


def main(command: str, argv: list[str]) -> None:
    """Parse ``argv``, build data, task and trainer, and run ``command``."""
    cli = Train(command, argv)
    try:
        cli.run_command()
    finally:
        cli.run.release()


class Train(LightningCLI):
    """Data, task and trainer of one command, from a config and flags.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        argv: the command line after it.
        build: build data, task and trainer; otherwise only read the options and find the checkpoint.
        runs: folder where the run has its own. Default: ``runs/<name>`` in ``trainer.default_root_dir``.
    """

    def __init__(self, command: str, argv: list[str], *, build: bool = True, runs: Path | None = None):
        silence()
        # lightning 2.6 calls functions that jsonargparse 4.49 has renamed
        os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        prepare_parser()
        self.command, self.argv, self.build, self.runs = command, argv, build, runs
        super().__init__(
            Task,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={"prog": f"seqmix {command}", "description": None, "allow_abbrev": False},
            args=with_paths(argv),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the command, and the facts that go from the data to the task."""
        for fact in LINKED:
            parser.link_arguments(f"data.{fact}", f"model.init_args.{fact}", apply_on="instantiate")
        add = parser.add_argument
        add("--name", type=str | None, help="name of the folder of the runs, runs/<name>. Default: that of the config")
        add(
            "--baselines",
            type=list[ForecastModelFactory] | None,
            help="baselines, with default settings; '[]' for none. Default: SeasonalNaive, Ridge, DLinear",
        )
        add(
            "--densify",
            type=bool | Densify,
            default=False,
            help="dense layers for the mixers of the model (JustDense): true, or its options",
        )
        add("--allocator", type=bool, default=True, help="keep freed memory for the next step: faster on a CPU")
        add("--ckpt_path", type=str | None, help="checkpoint: a file, or best or last of the newest run of this seed")
        if self.command == "fit":
            add("--test", type=bool, default=True, help="test the best weights after training")
            add(
                "--resume",
                type=Literal["auto"] | None,
                help="auto: go on from the last checkpoint of the newest run of these settings, or begin",
            )
        if self.command in ("fit", "test"):
            add("--record", type=bool, default=False, help="append the results to configs/results/<name>.csv")
        if self.command == "predict":
            add(
                "--out",
                type=str | None,
                help="file of forecasts. Default: predictions.csv in the folder of the run",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; name the run after its config."""
        self.config = parser.parse_args(args)
        if self.config.name is None:
            named = (self.config[part].class_path.rpartition(".")[2] for part in ("model", "data"))
            self.config.name = Path(self.config.config[0]).stem if self.config.config else "-".join(named)
        if self.config.name != Path(self.config.name).name or self.config.name in ("", ".."):
            raise ConfigError(
                f"name = {self.config.name!r} should be the name of one folder in runs/; use for example --name first"
            )
        check_trainer(self.command, self.config)
        # jsonargparse would silently take the fact of the data
        given = self.config.model.get("init_args", {})
        for fact in LINKED:
            if given.get(fact):
                raise ConfigError(f"model.{fact} = {given[fact]} cannot be set: it is a fact of the data; leave it out")

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint before anything is built, and set the allocator before anything is allocated."""
        self.seed = torch.initial_seed()
        self.parent = self.runs or Path(self.config.trainer.default_root_dir or ".") / "runs" / self.config.name
        self.given = self.config.clone()
        self.recorded = Path("configs/results") / f"{self.config.name}.csv"
        self.ckpt_path = self._checkpoint(self.config.ckpt_path or self._resumed())
        if self.ckpt_path and "weights" in self.config.model.init_args:
            # the checkpoint has them: the file they came from may be gone
            self.config.model.init_args.weights = None
        if self.config.allocator:
            tune_allocator()

    def instantiate_classes(self) -> None:
        """Build everything; objections of a constructor to its options are errors for the user."""
        if not self.build:
            return
        try:
            super().instantiate_classes()
            if how := self.config_init["densify"]:
                self.model.densify(None if how is True else how)
        except ValueError as e:
            error = root(e)
            if passed_through(error, trusted_modules()):
                raise error from None
            raise (trainer_error(e) if is_of_trainer(e) else ConfigError(str(error))) from e
        except Exception as e:
            if is_of_trainer(e):
                raise trainer_error(e) from e
            raise

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with the run's folder; a progress bar on a terminal, plain lines elsewhere."""
        terminal = sys.stdout.isatty()
        known = self.ckpt_path.parent if self.ckpt_path and (self.ckpt_path.parent / "env.json").exists() else None
        self.run = Run(self.parent, self.seed, self.text, folder=known, lines=not terminal)
        given = self.config_init["trainer"]
        bar = terminal and given["enable_progress_bar"] is not False
        callbacks = [*(given["callbacks"] or []), self.run, *([RichProgressBar()] if bar else [])]
        trainer = super().instantiate_trainer(callbacks=callbacks, enable_progress_bar=bar, **kwargs)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            # on a signal it would save in the middle of a step, where other runs of the folder would resume
            environment.auto_requeue = False
        return trainer

    def after_instantiate_classes(self) -> None:
        """Refuse baselines of another task, and to score weights that were never trained."""
        if not self.build:
            return
        if self.config.baselines and not self.model.chooses_baselines:
            raise ConfigError(f"baselines are forecasters, {type(self.model).__name__} has none; leave --baselines out")
        if self.config.get("record"):
            check_writable("record", self.recorded)
        if self.config.get("out"):
            check_writable("out", Path(self.config.out))
        if self.command == "predict" and self.trainer.world_size > 1:
            raise ConfigError(
                f"predictions are written in order by one process, got {self.trainer.world_size}; set "
                "trainer.devices: 1"
            )
        self.trainable = any(p.requires_grad for p in self.model.parameters())
        if self.command != "fit" and self.trainable and self.ckpt_path is None and not self.model.ready:
            raise ConfigError(
                f"`seqmix {self.command}` needs trained weights; pass --ckpt_path best for the newest run of "
                f"{self.config.name!r}, or the path of a checkpoint"
            )

    def run_command(self) -> None:
        """Run the command; an interruption reports what was kept."""
        try:
            with explaining(self.settings, getattr(self.datamodule, "n_workers", None)):
                getattr(self, self.command)()
        except (KeyboardInterrupt, SystemExit, SeqmixError) as e:
            if not self.trainer.is_global_zero:
                # the first process reports it
                raise SystemExit(1) from None
            if isinstance(e, OutOfMemory | WriteError | ProcessDied):
                # nothing was wrong with the run itself
                raise type(e)("; ".join([str(e), *self.kept()])) from e
            if isinstance(e, SeqmixError):
                raise
            # Lightning makes an exit of Ctrl-C
            stopped = e if isinstance(e, KeyboardInterrupt) else e.__context__
            if isinstance(stopped, KeyboardInterrupt):
                raise type(stopped)(*self.kept()) from None
            raise
        except Exception as e:
            if is_of_trainer(e):
                raise trainer_error(e) from e
            raise

    def fit(self) -> None:
        """Train, then test the best weights."""
        if self.trainable:
            for logger in self.trainer.loggers:
                logger.log_hyperparams(self.settings())
            self.trainer.fit(self.model, self.datamodule, ckpt_path=self.ckpt_path)
            if not self.trainer.global_step:
                self.trainer.validate(self.model, self.datamodule, verbose=False)
                self.run.keep(self.trainer, self.model)
            self.ckpt_path = self.run.kept("best")
            if self.run.folder and not self.ckpt_path:
                raise ConfigError(
                    f"no validation gave a finite {self.model.monitor}; lower model.optim.lr, or look at the data"
                )
        if self.config.test:
            self.test()

    def validate(self) -> None:
        """Print the validation metrics."""
        (metrics,) = self.trainer.validate(self.model, self.datamodule, ckpt_path=self.ckpt_path, verbose=False)
        if self.trainer.is_global_zero:
            print("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def test(self) -> None:
        """Test the model and the baselines on every window, print the table, add its rows to the run's results."""
        task, data = self.model, self.datamodule
        self.trainer.test(task, data, ckpt_path=self.ckpt_path, verbose=False)
        if not self.trainer.is_global_zero:
            return
        scores = [replace(task.score(), seconds=self.run.seconds)]
        if self.trainer.world_size > 1:
            # one process computes the baselines, on all of the data
            data.trainer = None
        scores += task.baselines(data, self.config_init["baselines"], self.seed)
        settings = self.settings()
        known = {"settings": digest(settings), "changed": differences(settings, self._named_settings(settings))}
        rows = rows_of(scores, task, data, self.trainer)
        rows = [{"config": self.config.name, "seed": self.seed, **row, **known} for row in rows]
        print_rows(rows, self.model, self.datamodule)
        if self.run.folder:
            rows = [{**row, "run": self.run.folder.name} for row in rows]
            # a finished run that is resumed or tested again adds nothing
            key = ("run", "settings", "role", "model", "data", task.counted, *task.metrics)
            append_rows(self.run.folder / "results.csv", rows, key=key)
            print(f"run folder: {self.run.folder}")
            if self.config.record:
                append_rows(self.recorded, rows, key=key)

    def predict(self) -> None:
        """Write the predictions for the test set."""
        if type(self.model).prediction_rows is Task.prediction_rows:
            raise ConfigError(f"{type(self.model).__name__} makes no file of predictions; use `seqmix test`")
        out = self.config.out or (self.run.folder and self.run.folder / "predictions.csv")
        if not out:
            raise ConfigError("no run folder to write predictions to; pass --out predictions.csv, or --ckpt_path best")
        batches = self.trainer.predict(self.model, datamodule=self.datamodule, ckpt_path=self.ckpt_path)
        write_predictions(Path(out), cast(list[dict[str, Tensor]], batches), self.model, self.datamodule)
        print(f"forecasts: {out}")

    @cached_property
    def text(self) -> str:
        """The ``config.yaml`` that makes this run again."""
        return self._text_of(self.given)

    def settings(self) -> dict[str, Any]:
        """Settings by dotted name: all that the results depend on besides seed and machine."""
        return flat(yaml.safe_load(self.text))

    def kept(self) -> list[str]:
        """Messages on the files of an interrupted run, and how to resume it."""
        names = [f"{name}.ckpt" for name in ("last", "best") if self.run.kept(name)]
        if not names:
            return ["no checkpoint was written yet"]
        trust = [f"--trust={','.join(modules)}"] if (modules := trusted_modules()) else []
        resume = shlex.join(["seqmix", self.command, *self.argv, *trust])
        if not self.config.ckpt_path and not self.config.get("resume"):
            resume += " --ckpt_path last"
        return [f"kept {' and '.join(names)} in {self.run.folder}", f"resume with: {resume}"]

    def _checkpoint(self, value: str | None) -> Path | None:
        if value is None:
            return None
        path = Path(value)
        if value in ("last", "best"):
            path = self._fitting_run(value) / f"{value}.ckpt"
        if not path.is_file():
            raise ConfigError(f"checkpoint {str(path)!r} not found; give the path of a .ckpt file, best or last")
        read_checkpoint(path)
        return path

    def _resumed(self) -> str | None:
        """``last`` if there is a run to resume, as for jobs that are requeued without another option."""
        if self.config.get("resume") is None:
            return None
        try:
            return "last" if (self._fitting_run("last") / "last.ckpt").exists() else None
        except ConfigError:
            return None

    def _fitting_run(self, value: str) -> Path:
        """The run whose own config was given, or the newest whose settings are those at hand."""
        given = Path(self.config.config[-1].absolute if self.config.config else "").parent
        if (given / "env.json").exists():
            return given
        return matching_run(self.parent, self.seed, yaml.safe_load(self.text), value)

    def _text_of(self, config: Namespace) -> str:
        config = config.clone()
        for name in MOMENTARY:
            config.pop(name, None)
        return self.parser.dump(config, skip_none=False)

    def _named_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings of the named config without the changes of this command line; those at hand if there is none."""
        if not self.config.config or (len(self.config.config) == 1 and keeps_settings(self.argv)):
            return settings
        path = Path(self.config.config[0].absolute)
        key = path, path.stat().st_mtime_ns if path.exists() else 0
        if key not in _NAMED:
            self.parser.exit_on_error = False
            try:
                named = self.parser.parse_args(["--config", str(self.config.config[0])])
                _NAMED[key] = flat(yaml.safe_load(self._text_of(named)))
            except ArgumentError:
                # a partial config: the rest comes from the command line
                _NAMED[key] = {}
            finally:
                self.parser.exit_on_error = True
        return _NAMED[key]
