"""What a wrong option says, verbatim, and the same for a flag as for a key in a config."""

import traceback
from contextlib import suppress
from pathlib import Path

import pytest

from seqmix.cli import run

CONFIG = """
model:
  class_path: Forecasting
  init_args:
    loss: mse
    model:
      class_path: MixerForecaster
      init_args: {mixer: {class_path: Pool, init_args: {pool_size: 3}}, layers: null, d_model: 8}
data: {class_path: Cycles, init_args: {context: 24, horizon: 8}}
trainer: {max_epochs: 1}
"""
MODEL = (
    "  It takes: mixer, layers, channel_mixer, d_model, n_layers, patch_len, patch_stride, norm, dropout, drop_path, "
    "head_dropout, position_embedding"
)
CYCLES = (
    "  It takes: context, horizon, batch_size, n_channels, n_steps, lag, data_seed, eval_batch_size, stride, scale, "
    "calendar, seed"
)
TOP = (
    "  It takes: config, seed_everything, trainer, model, data, name, baselines, densify, allocator, ckpt_path, test, "
    "resume, record"
)
# which mixers and models are known grows, and with other tests too: here only how the list ends
KNOWN = ", or any dotted path"

# flags, the same as (old, new) text of the config, the two lines
CASES = {
    "option of a mixer": (
        ["--model.model.mixer.pool_siz", "3"],
        ("pool_size: 3", "pool_siz: 3"),
        "seqmix: unknown option 'pool_siz' in model.model.mixer (seqmix.mixers.Pool). Did you mean 'pool_size'?",
        "  It takes: pool_size, subtract_input",
    ),
    "option of a model": (
        ["--model.model.d_modl", "3"],
        ("d_model: 8", "d_modl: 8"),
        "seqmix: unknown option 'd_modl' in model.model (seqmix.models.MixerForecaster). Did you mean 'd_model'?",
        MODEL,
    ),
    "option of the data": (
        ["--data.horizn", "3"],
        ("horizon: 8", "horizn: 8"),
        "seqmix: unknown option 'horizn' in data (seqmix.data.Cycles). Did you mean 'horizon'?",
        CYCLES,
    ),
    "option of the trainer": (
        ["--trainer.max_epoch", "3"],
        ("max_epochs: 1", "max_epoch: 1"),
        "seqmix: unknown option 'max_epoch' in trainer. Did you mean 'max_epochs'?",
        "  `seqmix fit --help` lists what it takes",
    ),
    "option of an option that is not there": (
        ["--model.backbone.n_layers", "1"],
        ("loss: mse", "backbone: {n_layers: 1}"),
        "seqmix: unknown option 'backbone' in model (seqmix.tasks.Forecasting).",
        "  It takes: model, residual, loss, loss_module, quantiles, normalize, normalize_affine, season, optim, "
        "patience",
    ),
    "option at the top": (
        ["--recrd", "true"],
        ("trainer:", "recrd: true\ntrainer:"),
        *(
            "seqmix: unknown option 'recrd'. Did you mean 'record'?",
            TOP,
        ),
    ),
    "class of a mixer": (
        ["--model.model.mixer", "pool"],
        ("class_path: Pool", "class_path: pool"),
        "seqmix: no class 'pool' for model.model.mixer. Did you mean 'Pool'?",
        KNOWN,
    ),
    "class in a list": (
        ["--model.model.layers", "[Pool, FNett]"],
        ("layers: null", "layers: [Pool, FNett]"),
        "seqmix: no class 'FNett' for model.model.layers. Did you mean 'FNet'?",
        KNOWN,
    ),
    "class of the model": (
        ["--model.model", "TSMM2"],
        ("class_path: MixerForecaster", "class_path: TSMM2"),
        "seqmix: no class 'TSMM2' for model.model. Did you mean 'TSM2'?",
        KNOWN,
    ),
    "class of the task": (
        ["--model", "forecastin"],
        ("class_path: Forecasting", "class_path: forecastin"),
        "seqmix: no class 'forecastin' for model. Did you mean 'Forecasting'?",
        KNOWN,
    ),
    "class of the data": (
        ["--data", "Cycle"],
        ("class_path: Cycles", "class_path: Cycle"),
        "seqmix: no class 'Cycle' for data. Did you mean 'Cycles'?",
        KNOWN,
    ),
    "module that is not there": (
        ["--model.model", "my_file.Mean"],
        ("class_path: MixerForecaster", "class_path: my_file.Mean"),
        "seqmix: no class 'my_file.Mean' for model.model: no module named 'my_file'",
        KNOWN,
    ),
    "name that the module lacks": (
        ["--model.model.mixer", "seqmix.mixers.Nope"],
        ("class_path: Pool", "class_path: seqmix.mixers.Nope"),
        "seqmix: no class 'seqmix.mixers.Nope' for model.model.mixer: module 'seqmix.mixers' has no attribute 'Nope'",
        KNOWN,
    ),
    "class of another kind": (
        ["--model.model", "torch.nn.Linear"],
        ("class_path: MixerForecaster", "class_path: torch.nn.Linear"),
        "seqmix: model.model should be a ForecastModel, 'torch.nn.Linear' is none",
        KNOWN,
    ),
    "int": (
        ["--model.model.d_model", "wide"],
        ("d_model: 8", "d_model: wide"),
        "seqmix: model.model.d_model should be int, got 'wide'",
    ),
    "int of the trainer": (
        ["--trainer.max_epochs", "many"],
        ("max_epochs: 1", "max_epochs: many"),
        "seqmix: trainer.max_epochs should be int or null, got 'many'",
    ),
    "one of some words": (
        ["--model.loss", "msee"],
        ("loss: mse", "loss: msee"),
        "seqmix: model.loss should be 'mse' or 'mae' or 'huber' or 'quantile' or 'normal' or 'student_t' or "
        "'negative_binomial', got 'msee'. Did you mean 'mse'?",
    ),
    "list": (
        ["--model.quantiles", "[low]"],
        ("loss: mse", "quantiles: [low]"),
        "seqmix: model.quantiles should be a list of float or null, got 'low'",
    ),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG)


def _says(argv, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["seqmix", *argv])
    with pytest.raises(SystemExit) as end:
        run(argv)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


@pytest.mark.parametrize("where", ["flag", "config"])
@pytest.mark.parametrize("case", CASES)
def test_wrong_option(case, where, monkeypatch, capsys):
    flags, (old, new), *lines = CASES[case]
    if where == "config":
        assert old in CONFIG
        Path("c.yaml").write_text(CONFIG.replace(old, new, 1))
        # a config names no module that the user does not
        flags = ["--trust", "my_file"] if "my_file" in new else []
    said = _says(["fit", "--config", "c.yaml", *flags], monkeypatch, capsys)
    if lines[1:] == [KNOWN]:
        assert said[1].startswith("  Known: ") and said[1].endswith(KNOWN)
        lines[1] = said[1]
    assert said == lines
    assert sorted(p.name for p in Path().iterdir()) == ["c.yaml"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "trainer:\n  max_epochs: 1\n callbacks: [",
            [
                "seqmix: config file 'bad.yaml' is not YAML, line 3: "
                "expected <block end>, but found '<block mapping start>'",
                "  Mappings are `key: value`, those of one level indented alike",
            ],
        ),
        (
            "- a\n- b\n",
            [
                "seqmix: the config file holds no options",
                "  It should be a mapping with the keys model, data and trainer",
            ],
        ),
        (
            "trainer: {max_epochs: 1}",
            ["seqmix: data and model must be given", "  In a config, `seqmix fit --config <file>`, or as an option"],
        ),
        (
            "data: Cycles\nmodel: Forecasting",
            ["seqmix: model.model must be given", "  In a config, `seqmix fit --config <file>`, or as an option"],
        ),
    ],
)
def test_wrong_config_file(text, lines, monkeypatch, capsys):
    Path("bad.yaml").write_text(text)
    assert _says(["fit", "--config", "bad.yaml"], monkeypatch, capsys) == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "data: Cycles\nmodel: {class_path: Forecasting, init_args: {model: Ridge}}\ntrainer: null",
            "trainer = null has none of the options of the trainer; leave it out",
        ),
        ("name: \xba", "a config file is no text, at byte 6 (invalid start byte); save it as UTF-8"),
    ],
)
def test_config_file_of_no_use(text, line, capsys):
    Path("bad.yaml").write_text(text, encoding="latin-1")
    assert run(["fit", "--config", "bad.yaml"]) == 1
    assert capsys.readouterr().err == f"seqmix: {line}\n"


def test_missing_config_file(monkeypatch, capsys):
    listed = "  `seqmix list configs` shows those that come with seqmix"
    missing = ["seqmix: config file 'dem.yaml' not found. Did you mean 'demo'?", listed]
    assert _says(["fit", "--config", "dem.yaml"], monkeypatch, capsys) == missing
    Path("configs").mkdir()
    folder = ["seqmix: config file 'configs' is a folder.", listed]
    assert _says(["fit", "--config", "configs"], monkeypatch, capsys) == folder


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["fit", "stray"], "seqmix: unexpected argument 'stray'"),
        (["fit", "--data.name", "ETTh1"], "seqmix: data has options and no class"),
        (["fit", "--model.model.help", "DLinear"], "seqmix: model has options and no class"),
        (["bench", "--mixr", "Pool"], "seqmix: unknown option 'mixr'. Did you mean 'mixer'?"),
        (["bench"], "seqmix: mixer must be given"),
        (
            ["bench", "--mixer", "Pool", "--mixer.pool_siz", "3"],
            "seqmix: unknown option 'pool_siz' in mixer (seqmix.mixers.Pool). Did you mean 'pool_size'?",
        ),
        (["matrix", "--mixer", "pool"], "seqmix: no class 'pool' for mixer. Did you mean 'Pool'?"),
        (["matrix", "--mixer", "Pool", "--length", "long"], "seqmix: length should be int, got 'long'"),
        # abbreviations are not guessed
        (["bench", "--mixer", "Pool", "--length", "[4]"], "seqmix: unknown option 'length'. Did you mean 'lengths'?"),
    ],
)
def test_wrong_arguments_of_other_commands(argv, line, monkeypatch, capsys):
    assert _says(argv, monkeypatch, capsys)[0] == line


def test_facts_of_the_data_cannot_be_set(monkeypatch, capsys):
    argv = ["fit", "--data", "Cycles", "--model"]
    assert run([*argv, "TokenPrediction", "--model.mixer", "Pool", "--model.vocab_size", "3"]) == 1
    message = "seqmix: model.vocab_size = 3 cannot be set: it is a fact of the data; leave it out\n"
    assert capsys.readouterr().err == message
    flags = ["Forecasting", "--model.model", "DLinear", "--model.series.context", "3"]
    line = "seqmix: model.series cannot be set: it is a fact of the data; leave it out"
    assert _says([*argv, *flags], monkeypatch, capsys)[0] == line
    flags[-2:] = ["--model.series.season", "3"]
    advice = "  A task of your own annotates it as `Series | dict[str, int]`"
    assert _says([*argv, *flags], monkeypatch, capsys)[:2] == [line, advice]


def test_lengths_that_are_none(capsys):
    assert run(["bench", "--mixer", "Pool", "--lengths", "64,many"]) == 1
    message = "seqmix: lengths should be positive integers separated by commas, got '64,many'; use 64,256,1024\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("bench --mixer Pool --repeats 0", "repeats = 0 is below 1; use repeats=1 or more"),
        ("bench --mixer Pool --batch_size 0", "batch_size = 0 is below 1; use batch_size=1 or more"),
        ("bench --mixer Pool --device gpu", "device = 'gpu' is not there; use --device cpu, or cuda on a machine with"),
        ("bench --mixer Pool --out c.yaml/x.csv", "--out writes to 'c.yaml/x.csv', which cannot be written: "),
        ("matrix --mixer Pool --out x.xyz", "--out 'x.xyz' has no ending of a picture; use one of avif, "),
        ("matrix --mixer Pool --out c.yaml/x.png", "--out writes to 'c.yaml/x.png', which cannot be written: "),
        ("report --plot x.xyz", "--plot 'x.xyz' has no ending of a picture; use one of avif, "),
    ],
)
def test_what_a_command_cannot_do_is_said_before_it_works(argv, message, capsys):
    assert run(argv.split()) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"seqmix: {message}")


def test_a_missing_file_of_your_own(capsys):
    argv = ["fit", "--data", "WideCSV", "--data.path", "none.csv", "--data.context", "4", "--data.horizon", "2"]
    assert run([*argv, "--model", "Forecasting", "--model.model", "DLinear"]) == 1
    assert capsys.readouterr().err == f"seqmix: none.csv not found in {Path.cwd()}; check the path\n"


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        (
            "Copying",
            ["Forecasting", "--model.model", "DLinear"],
            "Forecasting needs data that knows series; ",
        ),
        ("Cycles", ["TokenPrediction", "--model.mixer", "Pool"], "TokenPrediction needs data that knows vocab_size; "),
    ],
)
def test_data_of_another_task(data, task, message, capsys):
    assert run(["fit", "--data", data, "--model", *task]) == 1
    assert capsys.readouterr().err.startswith(f"seqmix: {message}")


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (["Classification"], "seqmix: model.model must be given"),
        (
            ["CausalLM", "--model.model", "TokenModel", "--model.model.mixer", "Pool"],
            "seqmix: CausalLM needs data that ",
        ),
        (["Forecasting", "--model.model", "DLinear", "--model.lr", "1"], "seqmix: unknown option 'lr' in model "),
    ],
)
def test_another_task_than_that_of_the_config(task, line, capsys):
    with suppress(SystemExit):
        assert run(["fit", "--config", "c.yaml", "--model", *task]) == 1
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError])
def test_an_error_in_code_of_the_user_keeps_type_and_place(error, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    name = f"own_{error.__name__}"
    Path(f"{name}.py").write_text(
        "from seqmix.data import Cycles\n\n\nclass Mine(Cycles):\n    def __init__(self):\n"
        f"        raise {error.__name__}('mine')\n"
    )
    with pytest.raises(error) as found:
        run(["fit", "--config", "c.yaml", "--data", f"{name}.Mine"])
    assert Path(traceback.extract_tb(found.tb)[-1].filename).name == f"{name}.py"
