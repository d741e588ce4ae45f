"""Report of a study: a table, ``trials.csv``, the best config, and two plots."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqmix.commands._trials import Search, words
from seqmix.commands.outputs import save_picture
from seqmix.commands.tables import print_table
from seqmix.search import importance
from seqmix.tasks.rows import write, write_rows

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_DONE = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}


def report(search: Search) -> bool:
    """Print and write the report of a study; False if no trial has a result."""
    study = search.study()
    trials = study.get_trials(deepcopy=False)
    tried = [trial for trial in trials if "same_as" not in trial.user_attrs]
    done = [trial for trial in tried if trial.state.name == "COMPLETE"]
    if not tried:
        return False
    rows = [_row(trial, search) for trial in sorted(tried, key=lambda trial: _place(trial, search))]
    write_rows(search.folder / "trials.csv", rows)
    notes = [f"trial {t.number + 1} failed: {t.user_attrs['error']}" for t in tried if t.state.name == "FAIL"]
    if repeated := len(trials) - len(tried):
        notes.append(f"{repeated} trials repeated earlier values and were not trained again")
    print_table(f"{len(tried)} trials of study {search.folder.name!r}, in {search.folder}", rows)
    print("\n".join(notes), end="\n" * bool(notes))
    if not done:
        return False
    best = min(done, key=lambda trial: _place(trial, search))
    file = _write_best(best, search, len(trials))
    draw_history(trials, search, search.folder / "history.png")
    if shares := importance(study, search.space):
        draw_importance(shares, search, search.folder / "importance.png")
    print(f"best config: {file}\n  test its weights: seqmix test --config {file} --ckpt_path best")
    return True


def draw_history(trials: Sequence["FrozenTrial"], search: Search, file: Path) -> None:
    """Draw the result of each trial, and the best so far."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    ax = (figure := Figure(figsize=(7, 4), layout="constrained")).add_subplot()
    tried = [trial for trial in trials if "same_as" not in trial.user_attrs]
    for state, marker, color in (("COMPLETE", "o", "tab:blue"), ("PRUNED", "x", "tab:gray")):
        found = [(trial.number + 1, _score(trial)) for trial in tried if trial.state.name == state]
        if found:
            ax.scatter(*zip(*found, strict=True), marker=marker, color=color, label=_DONE[state], zorder=3)
    failed = [trial.number + 1 for trial in tried if trial.state.name == "FAIL"]
    if failed:
        axis = ax.get_xaxis_transform()
        ax.scatter(failed, [0.03] * len(failed), marker="|", color="tab:red", label="failed", transform=axis)
    done = [trial for trial in tried if trial.state.name == "COMPLETE"]
    best = (np.maximum if search.maximize else np.minimum).accumulate([_score(trial) for trial in done])
    ax.step(
        [*(t.number + 1 for t in done), len(trials)],
        [*best, best[-1]],
        where="post",
        color="tab:orange",
        label="best so far",
        zorder=2,
    )
    scores = [s for t in tried if math.isfinite(s := _score(t))]
    if min(scores) > 0 and max(scores) > 10 * min(scores):
        ax.set_yscale("log")
    better = "higher" if search.maximize else "lower"
    ax.set(xlabel="trial", ylabel=f"validation {search.metric} ({better} is better)")
    ax.set_title(f"{search.folder.parent.name}: best {best[-1]:.4f} of {len(tried)} trials")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    save_picture(figure, file)


def draw_importance(shares: Mapping[str, float], search: Search, file: Path) -> None:
    """Draw the share of each option in the variance of the results."""
    from matplotlib.figure import Figure

    height = 1.4 + 0.35 * len(shares)
    ax = (figure := Figure(figsize=(7, height), layout="constrained")).add_subplot()
    rising = list(shares.items())[::-1]
    bars = ax.barh([name for name, _ in rising], [share for _, share in rising], color="tab:blue")
    ax.bar_label(bars, [f"{share:.0%}" for _, share in rising], padding=3)
    ax.set_xlim(0, 1.1 * max(shares.values()))
    ax.set_xlabel(f"share in the variance of validation {search.metric} over the space (fANOVA)")
    ax.set_title(f"{search.folder.parent.name}: importance of options")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    save_picture(figure, file)


def _row(trial: "FrozenTrial", search: Search) -> dict[str, Any]:
    return {
        "trial": trial.number + 1,
        "state": _DONE[trial.state.name],
        f"validation {search.metric}": f"{_score(trial):.4f}" if math.isfinite(_score(trial)) else "",
        **{name: _said(trial.params.get(name, "")) for name in search.space},
        "validations": len(trial.intermediate_values),
        "seconds": trial.user_attrs.get("seconds", ""),
        "run": Path(trial.user_attrs.get("run", "")).name,
    }


def _score(trial: "FrozenTrial") -> float:
    """Result of a trial; the last validation of one that was not finished."""
    if trial.state.name == "COMPLETE":
        return trial.values[0]
    found = trial.intermediate_values
    return found[max(found)] if found else math.nan


def _place(trial: "FrozenTrial", search: Search) -> tuple[int, float]:
    """Sort key in the table: finished trials by their result, then the others in order."""
    if trial.state.name == "COMPLETE":
        return 0, _score(trial) * (-1 if search.maximize else 1)
    return 1 + list(_DONE).index(trial.state.name), trial.number


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_best(best: "FrozenTrial", search: Search, count: int) -> Path:
    """Write the config of the best trial, with its origin in the header."""
    file, run = search.folder / "best.yaml", Path(best.user_attrs["run"])
    better = "higher" if search.maximize else "lower"
    head = (
        f"# Study {search.folder.name!r} of {search.folder.parent.name}: the best of {count} trials is number "
        f"{best.number + 1}, validation {search.metric} {_score(best):.6g} ({better} is better).\n"
        f"# It set {words(best.params)}\n"
        f"# Weights: {run / 'best.ckpt'}\n"
        f"# seqmix fit --config {file}\n"
    )
    write(file, head + (run / "config.yaml").read_text(encoding="utf-8"))
    return file
