"""A config that is trained in a moment, with dropout and several batches an epoch."""

CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.1}
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, batch_size: 64, n_channels: 2, n_steps: 400}
trainer: {max_epochs: 1, accelerator: cpu}
"""
