"""``seqmix tune``: hyper-parameter search on the validation set, with Optuna."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seqmix.commands._settings import differences
from seqmix.commands._study_report import report
from seqmix.commands._trials import Search, run_trials
from seqmix.commands._workers import in_processes, in_ray
from seqmix.commands.sweep import split
from seqmix.commands.train import Train
from seqmix.errors import ConfigError, SeqmixError
from seqmix.forecasting.options import seconds
from seqmix.search import PRUNERS, Choice, Space, dimension
from seqmix.tasks.rows import write

DESCRIPTION = """\
Search the options of a config for the best validation; nothing is tested. Other options are those of `seqmix fit`.

  seqmix tune --config demo --space model.optim.lr=log:1e-4:1e-2 model.model.d_model=int:16:64:16 data.batch_size=32,64

Values are int:LOW:HIGH[:STEP], float:LOW:HIGH[:STEP], log:LOW:HIGH (a logarithmic scale), or words between commas. A
YAML file has a line for each option: `model.optim.lr: log:1e-4:1e-2`, `model.model.mixer: [Hydra, Mamba]`.

Trials are kept in runs/<name>/<study>. The same line goes on where it was stopped or killed, and several at once share
the trials. The config of the best is best.yaml there. Trials that fail are recorded, and not tried again.
"""


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    # an option of fit may begin like one of ours
    parser = argparse.ArgumentParser(
        prog=f"seqmix {command}",
        usage="seqmix tune --config CONFIG --space OPTION=VALUES [OPTION=VALUES ...] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--space", nargs="+", action="extend", default=[], metavar="SPACE", help="OPTION=VALUES, or a YAML file")
    add("--trials", type=int, default=50, metavar="N", help="trials of the study. Default: 50")
    add("--budget", metavar="TIME", help="when to stop, for example 10min; a trial that runs is gone on with later")
    add("--pruner", default="median", metavar="NAME", help="how poor trials are ended: median, hyperband, none")
    add("--jobs", type=int, default=1, metavar="N", help="processes, of one thread each. Default: 1")
    add("--workers", type=int, metavar="N", help="tasks of Ray instead, on the cluster or on this machine")
    add("--study", default="tune", metavar="NAME", help="name of the study. Default: tune")
    add("--seed", type=int, default=0, metavar="N", help="seed of the draws. Default: 0")
    given, rest = parser.parse_known_args(argv)
    counts = {"trials": given.trials, "jobs": given.jobs, "workers": 1 if given.workers is None else given.workers}
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}; use 1 or more")
    if given.seed < 0:
        raise ConfigError(f"seed must be at least 0, got {given.seed}; use for example 0")
    if given.workers and given.jobs > 1:
        raise ConfigError("--jobs are processes of this machine, --workers tasks of Ray; use one of them")
    left = seconds("budget", given.budget) if given.budget else float("inf")
    space = space_of(given.space)
    search = plan(rest, space, given.study, given.trials, given.pruner, given.seed, time.time() + left)
    tune(search, given.jobs, given.workers)


def tune(search: Search, jobs: int, workers: int | None) -> None:
    """Run the remaining trials, then print the report, also after an interruption.

    Args:
        search: the study.
        jobs: processes of this machine.
        workers: tasks of Ray. Default: processes are used.

    Raises:
        ConfigError: if no trial has a result.
    """
    try:
        if workers:
            in_ray(run_trials, (search,), workers)
        elif jobs > 1:
            in_processes(run_trials, (search,), jobs)
        else:
            run_trials(search)
    except KeyboardInterrupt as e:
        report(search)
        raise type(e)(*e.args[:1], f"the same line goes on with the study in {search.folder}") from None
    if not report(search):
        failed = [t for t in search.study().get_trials(deepcopy=False) if "error" in t.user_attrs]
        first = (
            f", the first: {failed[0].user_attrs['error']}; change --space"
            if failed
            else "; the same line goes on, raise --budget"
        )
        raise ConfigError(f"no trial has a result: {len(failed)} failed{first}")


def plan(argv: Sequence[str], space: Space, name: str, trials: int, pruner: str, seed: int, deadline: float) -> Search:
    """The study: every value of the space is one that its option takes, and the folder is its own.

    Raises:
        ConfigError: if the config cannot be searched, or the folder has a study with other settings.
    """
    if pruner not in PRUNERS:
        raise ConfigError(f"pruner = {pruner!r} is not known; use one of {', '.join(PRUNERS)}")
    if name != Path(name).name or name in ("", ".."):
        raise ConfigError(f"study = {name!r} should be the name of one folder; use for example --study first")
    if not space:
        raise ConfigError("there is nothing to search; use for example --space model.optim.lr=log:1e-4:1e-2")
    ends = [
        [(option, values.ends[min(i, len(values.ends) - 1)]) for option, values in space.items()]
        for i in range(max(len(values.ends) for values in space.values()))
    ]
    *_, cli = [
        Train("fit", [*argv, *(part for option, x in each for part in (f"--{option}", str(x)))], build=False)
        for each in ends
    ]
    for option in ("ckpt_path", "resume", "record"):
        if cli.config[option]:
            raise ConfigError(f"{option} is for one run, not for a search; leave it out")
    if str(cli.config.trainer.devices) != "1" or cli.config.trainer.fast_dev_run:
        raise ConfigError("a trial needs one device and a run folder; leave trainer.devices and fast_dev_run out")
    module, _, task_name = cli.config.model.class_path.rpartition(".")
    task = getattr(sys.modules[module], task_name)
    folder = cli.parent / name
    settings = {"seed": seed, **_space_words(space)}
    for option, value in cli.settings().items():
        if not any(f"{option}.".startswith(f"{varied.replace('init_args.', '')}.") for varied in space):
            settings[option] = value
    _own(folder, settings)
    return Search(
        argv=tuple(argv),
        space=space,
        folder=folder,
        trials=trials,
        pruner=pruner,
        seed=seed,
        metric=(task.validated or task.metrics)[0],
        maximize=task.better == "higher",
        deadline=deadline,
    )


def space_of(entries: Sequence[str]) -> Space:
    """The space from entries ``option=values`` and YAML files.

    Raises:
        ConfigError: if an entry is neither, or an option stands twice.
    """
    space: dict[str, Any] = {}
    for entry in entries:
        option, equals, text = entry.partition("=")
        if equals:
            found: dict[str, Any] = {option.removeprefix("--"): text if _is_range(text) else list(split(text))}
        else:
            found = _file(Path(entry))
        for name, given in found.items():
            if name in space:
                raise ConfigError(f"--space names {name} twice; put all of its values into one entry")
            space[name] = dimension(name, [_typed(x) for x in given] if isinstance(given, list) else given)
    return space


def _file(path: Path) -> dict[str, Any]:
    example = "use lines such as model.optim.lr: log:1e-4:1e-2"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"--space {str(path)!r} cannot be read ({e.strerror}); use OPTION=VALUES or a file") from e
    except (UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"--space {str(path)!r} is not YAML: {' '.join(str(e).split())}; {example}") from e
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"--space {str(path)!r} has no options and values; {example}")
    return dict(found)


def _is_range(text: str) -> bool:
    return text.startswith(("int:", "float:", "log:"))


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _space_words(space: Space) -> dict[str, str]:
    """The space in words, to be compared with that of an earlier study."""
    return {
        f"space.{name}": ",".join(values.values)
        if isinstance(values, Choice)
        else f"{values.kind}:{values.low}:{values.high}:{values.step}"
        for name, values in space.items()
    }


def _own(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a study, or see that it is one of the same settings."""
    file, said = folder / "study.json", json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n"
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if known is None:
            write(file, said)
        elif other := differences(known, json.loads(said)):
            raise ConfigError(f"the study in {folder} has {other}; give the same, or another name with --study")
    except SeqmixError:
        raise
    except OSError as e:
        raise ConfigError(f"no study can be written in {str(folder)!r}: {e.strerror}; free it") from e
    except ValueError as e:
        raise ConfigError(f"{file} is damaged; mend or move the folder, or give another name with --study") from e
