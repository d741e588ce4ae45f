"""Any config is run, or refused in at most three lines that begin as ours do, and leaves nothing behind."""

import io
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import yaml
from hypothesis import strategies as st
from strategies import changed_values, damaged, fuzz, one_of

from seqmix.cli import run
from seqmix.commands.configs import config_files

# the smallest run that there is
SMALL = """
seed_everything: 0
model:
  class_path: Forecasting
  init_args:
    model: {class_path: MixerForecaster, init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 8}}
    optim: {class_path: AdamW, init_args: {lr: 0.001}}
    loss: mse
    patience: null
data: {class_path: Cycles, init_args: {context: 24, horizon: 8, n_steps: 300, n_channels: 2}}
baselines: []
trainer: {max_epochs: 1, accelerator: cpu, fast_dev_run: true}
"""
SHIPPED = [path.read_text(encoding="utf-8") for path in config_files()]
LIMITS = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]


@st.composite
def configs(draw: Callable) -> tuple[bytes, list[str]]:
    """A config of which one part is another, or the bytes of which are damaged, and options of the command line.

    The smallest is run; those that are shipped are parsed alone, as their data may not be there.
    """
    small = draw(st.booleans())
    text = SMALL if small else draw(one_of(*SHIPPED))
    options = LIMITS if small else ["--print_config"]
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged(text.encode())), options
    return yaml.safe_dump(draw(changed_values(yaml.safe_load(text)))).encode(), options


@fuzz(3, 500, config=configs())
def test_a_config_is_run_or_refused(config):
    content, options = config
    said, here = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(said), redirect_stdout(io.StringIO()):
        os.chdir(folder)
        try:
            Path("c.yaml").write_bytes(content)
            try:
                code = run(["fit", "--config", "c.yaml", *options])
            except SystemExit as e:
                code = e.code
            left = [name for name in os.listdir() if name not in ("c.yaml", "runs")]
        finally:
            os.chdir(here)
    lines = said.getvalue().splitlines()
    assert code in (0, 1, 2), (code, lines)
    assert code == 0 or (lines and lines[0].startswith("seqmix: ") and len(lines) <= 3), lines
    assert not left, left
