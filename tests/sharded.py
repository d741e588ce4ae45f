"""The two processes of ``test_sharded.py``: each line of the input is a name, a config and options of a fit."""

import re
import sys
from pathlib import Path

import pytest
from stand_ins import stand_in

from seqmix.commands.train import Train

OPTIONS = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.max_epochs", "2", "--baselines", "[]"),
    *("--trainer.check_val_every_n_epoch", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
)


def main(name, config, *options):
    """Fit a small form of a config, on a few examples where it would read some."""
    path = Path(config)
    # the layers of a published model are alike: two of them are quick
    Path(path.name).write_text(re.sub(r"n_layers: \d+\b", "n_layers: 2", path.read_text()))
    cli = Train("fit", ["--config", path.name, "--name", name, *OPTIONS, *options])
    with pytest.MonkeyPatch.context() as patch:
        stand_in(cli.datamodule, patch)
        cli.run_command()
    cli.run.release()


if __name__ == "__main__":
    for line in sys.stdin:
        main(*line.split())
