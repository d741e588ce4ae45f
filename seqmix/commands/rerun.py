"""``seqmix rerun``: repeat a run from its folder, and compare every metric with the recorded one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqmix.commands._function import call
from seqmix.commands.train import Train
from seqmix.errors import ConfigError, DataError, SeqmixError, check_at_least
from seqmix.tasks.rows import read_rows

Row = Mapping[str, str]

# columns that identify a validation, and columns that depend on the clock or on an interruption
_UNCOMPARED = ("step", "seconds", "train_loss")
# columns that identify a result, and columns of its provenance
_OF_RESULT = ("role", "model", "data")
_ELSEWHERE = ("config", "seed", "run", "settings", "changed", "commit", "device", "seconds")


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(rerun, command, argv, leading=("run",))


def rerun(*, run: str, tolerance: float = 0.0) -> None:
    """Repeat a run from its folder, in a new folder beside it, and compare every validation and test.

    On the same machine with the same versions, the results are equal to the last bit. Differences between the two
    environments are listed. The exit code is 1 if a metric differs, and the first difference is named. The mean
    training loss is not compared: it leaves out steps before an interruption.

    Args:
        run: folder of the run, ``runs/<name>/<time>-seed<k>``, or of several of them: the newest.
        tolerance: relative difference up to which two values count as equal.

    Raises:
        ConfigError: if the folder lacks what a run is made of.
    """
    check_at_least(0, tolerance=tolerance)
    before = _folder(Path(run))
    validations, results = (read_rows(before / f"{name}.csv") for name in ("metrics", "results"))
    if not validations and not results:
        raise ConfigError(
            f"{str(before)!r} has no rows in metrics.csv or results.csv to compare with; give a run that has"
        )
    options = ["--config", str(before / "config.yaml"), "--test", str(bool(results)).lower()]
    if seed := re.search(r"-seed(\d+)", before.name):
        options += ["--seed_everything", seed[1]]
    cli = Train("fit", options, runs=before.parent)
    try:
        cli.run_command()
    finally:
        cli.run.release()
    after = cli.run.folder
    if after is None:
        raise ConfigError(f"{str(before)!r} is a run without a folder of its own; leave fast_dev_run out of its config")
    for line in _environments(before, after):
        print(line)
    tested = read_rows(after / "results.csv")
    again = {row["step"]: row for row in read_rows(after / "metrics.csv")}
    pairs = [
        *((f"validation at step {row['step']}", row, again.get(row["step"])) for row in validations),
        *((f"test of {row['model']}", row, now) for row, now in _results(results, tested)),
    ]
    compared, found = 0, []
    for what, then, now in pairs:
        values = [name for name in then if name not in (*_UNCOMPARED, *_OF_RESULT, *_ELSEWHERE)]
        compared += len(values)
        found += list(_differences(what, {name: then[name] for name in values}, now, tolerance))
    if found:
        more = f"; {len(found) - 1} more values differ" if len(found) > 1 else ""
        raise DifferentRun(f"the runs differ, first in {found[0]}{more}; the new run is {str(after)!r}")
    how = f"within {tolerance:g}" if tolerance else "to the last digit"
    n = len(validations)
    print(f"{compared} values of {n} validations and {len(pairs) - n} results are equal {how}")


class DifferentRun(SeqmixError):
    """A run that was trained again gave other results."""


def _folder(path: Path) -> Path:
    """The folder of a run, or of the newest of several.

    Raises:
        ConfigError: if there is none, or it lacks a file.
    """
    among = [file.parent for file in path.glob("*/env.json")]
    folder = max(among, key=lambda folder: (folder / "env.json").stat().st_mtime) if among else path
    for name in ("config.yaml", "env.json"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"no {name} in {str(folder)!r}; give the folder of a run of `seqmix fit`, runs/<name>/<time>-seed<k>"
            )
    return folder


def _environments(before: Path, after: Path) -> Iterator[str]:
    """A line for each fact of the environment that is not the same."""
    then, now = (_facts(folder / "env.json") for folder in (before, after))
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield f"{name}: {then.get(name, 'not recorded')} then, {now.get(name, 'not recorded')} now"


def _facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{str(path)!r} is not an environment of a run; copy the folder again")
    return found


def _results(then: Iterable[Row], now: Iterable[Row]) -> Iterator[tuple[Row, Row | None]]:
    """The results that are of the same model and data; of several the last."""
    last, new = ({tuple(row.get(name, "") for name in _OF_RESULT): row for row in rows} for rows in (then, now))
    return ((row, new.get(key)) for key, row in last.items())


def _differences(what: str, then: Row, now: Row | None, tolerance: float) -> Iterator[str]:
    if now is None:
        yield f"{what}: the new run has none"
        return
    for name, value in then.items():
        if not _equal(value, now.get(name, ""), tolerance):
            yield f"{what}: {name} = {value or 'nothing'} then, {now.get(name) or 'nothing'} now"


def _equal(a: str, b: str, tolerance: float) -> bool:
    if a == b:
        return True
    try:
        x, y = float(a), float(b)
    except ValueError:
        return False
    return abs(x - y) <= tolerance * max(abs(x), abs(y))
