"""Short help of commands that take a config: an example, and the most frequent options."""

EXAMPLES = {
    "fit": "seqmix fit --config configs/demo.yaml",
    "validate": "seqmix validate --config configs/demo.yaml --ckpt_path best",
    "test": "seqmix test --config configs/demo.yaml --ckpt_path best",
    "predict": "seqmix predict --config configs/demo.yaml --ckpt_path best --out forecasts.csv",
    "predict --images": "seqmix predict --images photos --model poolformer_s12 --weights poolformer_s12.pth.tar",
    "forecast": "seqmix forecast --data sales.csv --horizon 28 --out forecast.csv",
    "classify": "seqmix classify waves_TRAIN.ts waves_TEST.ts --out classes.csv",
    "impute": "seqmix impute sensors.csv --out filled.csv --plot filled.png",
    "detect": "seqmix detect sensors.csv --out scores.csv --plot scores.png",
    "generate": 'seqmix generate --config configs/mamba_shakespeare.yaml --ckpt_path best --prompt "ROMEO:"',
    "list": "seqmix list mixers",
    "info": "seqmix info",
    "matrix": "seqmix matrix --mixer Hydra --mixer.headdim 16 --out hydra.png",
    "sweep": "seqmix sweep --config demo --model.model MixerForecaster --grid model.model.mixer=Hydra,FNet --seeds 0,1",
    "tune": "seqmix tune --config demo --space model.optim.lr=log:1e-4:1e-2 data.batch_size=32,64 --trials 20",
    "runs": "seqmix runs --name demo",
    "rerun": "seqmix rerun runs/demo/20261129-120000-seed0",
    "report": "seqmix report lra --plot lra.png",
    "bench": "seqmix bench --mixer Mamba --lengths 1024,4096",
}
# of the commands that take a config: option, value, what it is, and the one command that has it
_OPTIONS = (
    ("config", "NAME", "config file, or the name of one that comes with seqmix: `seqmix list configs`", None),
    ("model", "CLASS", "task; `--model.help CLASS` lists its options, which are --model.<option>", None),
    ("model.model", "CLASS", "model of the task; `--model TASK --model.model.help CLASS` lists its options", None),
    ("data", "CLASS", "data; `--data.help CLASS` lists its options, which are --data.<option>", None),
    ("trainer.max_epochs", "N", "passes over the training data; more options of Lightning's Trainer with it", None),
    ("trainer.accelerator", "NAME", "cpu, gpu or auto", None),
    ("seed_everything", "N", "seed of weights, order and dropout", None),
    ("name", "NAME", "name of the folder of runs, runs/<name>. Default: that of the config", None),
    ("ckpt_path", "FILE", "checkpoint: a file, or best or last of the newest run that fits", None),
    (
        "baselines",
        "CLASSES",
        "models trained plainly and tested beside, '[]' for none. Default: those of the task",
        None,
    ),
    ("test", "BOOL", "test the best weights after training. Default: true", "fit"),
    ("record", "BOOL", "append the results to configs/results/<name>.csv. Default: false", "fit"),
    ("out", "FILE", "file of the forecasts. Default: predictions.csv in the folder of the run", "predict"),
)


def short_help(command: str, summary: str) -> str:
    """Help of a command that takes a config."""
    options = [(f"--{name} {value}", text) for name, value, text, only in _OPTIONS if only in (None, command)]
    width = max(len(option) for option, _ in options)
    lines = "\n".join(f"  {option:{width}}  {text}" for option, text in options)
    return f"""{summary[0].upper()}{summary[1:]}.

  {EXAMPLES[command]}
  {EXAMPLES[command]} --data.horizon 12 --model.model.d_model 16

Every key of a config is an option; classes are named by their names, your own by a dotted path:
{lines}

`seqmix {command} --help all` lists every option.
"""
