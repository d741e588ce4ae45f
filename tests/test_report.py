"""The tables of results: mean and deviation over seeds, beside baselines and published numbers; and their picture."""

import csv
import io
import json
import sys

import pytest

from seqmix.cli import main, run
from seqmix.commands import report
from seqmix.commands.generated import stale_pages
from seqmix.commands.report import summary
from seqmix.errors import ConfigError
from seqmix.tasks import Forecasting
from seqmix.tasks.rows import read_rows

HEAD = "config,seed,role,model,data,context,horizon,windows,mse,mae,parameters,seconds\n"
LRA = "config,seed,role,model,data,n_classes,max_len,examples,accuracy,loss,parameters,seconds\n"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    lines = [
        "c,0,model,TSM2,E,512,720,9,0.5,0.5,10,360",
        "c,0,model,TSM2,E,512,96,9,0.9,0.5,10,9000",
        "c,0,baseline,DLinear,E,512,96,9,0.6,0.5,8,1",
        "c,1,model,TSM2,E,512,96,9,0.4,0.5,10,1080",
        # run again: the newest of a seed counts
        "c,0,model,TSM2,E,512,96,9,0.2,0.5,10,360",
    ]
    (folder / "c.csv").write_text(HEAD + "\n".join(lines))
    lines = ["l,0,model,PoNet,ListOps-10,10,10,9,0.5,1.5,10,36", "l,0,baseline,Majority,ListOps-10,10,10,9,0.1,2.5,0,0"]
    (folder / "l.csv").write_text(LRA + "\n".join(lines))
    # of a run that was killed while it wrote
    (folder / ".l.host.7-1.part.csv").write_text(LRA + lines[0][:20])
    return folder


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "forecasts.csv").write_text("model,data,context,horizon,mse,source\nTSM2,E,512,96,0.25,paper\n")
    (folder / "lra.csv").write_text('model,data,accuracy,protocol\nPoNet,ListOps,0.378,"up to 2,000 tokens"\n')
    return folder


def test_baselines_and_published_numbers_stand_beside_the_model(results, published):
    first, second = summary(results, published)
    assert (first["steps"], first["test MSE"], first["seeds"]) == ("512 → 96", "0.300 ± 0.141", 2)
    assert (first["published"], first["DLinear"], second["DLinear"]) == ("0.25", "0.600", "")
    # 360 and 1,080 seconds
    assert first["hours"] == "0.20"
    assert (second["steps"], second["test MSE"], second["published"]) == ("512 → 720", "0.500", "")


def test_a_published_figure_of_another_protocol_says_so(results, published):
    (row,) = summary(results, published, "lra")
    assert (row["model"], row["length"], row["test accuracy"], row["Majority"]) == ("PoNet", "10", "0.500", "0.100")
    assert row["published"] == "0.378 (up to 2,000 tokens)"
    assert summary(results, published, "language") == summary(results, published, "glue") == []


def test_programs_get_numbers(results, published, capsys):
    options = ["--folder", str(results), "--published", str(published), "--format"]
    assert run(["report", *options, "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == {
        **{"config": "c", "model": "TSM2", "data": "E", "context": "512", "horizon": "96"},
        **{"mse": pytest.approx(0.3), "mse_std": pytest.approx(0.02**0.5), "mae": 0.5, "mae_std": 0},
        **{"published": 0.25, "DLinear": 0.6, "windows": 9, "parameters": 10, "seconds": 720, "seeds": 2},
    }
    assert (second["mse"], second["mse_std"], second["published"], second["DLinear"]) == (0.5, None, None, None)
    assert run(["report", *options, "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["mse"], row["published"]) for row in rows] == [(str(first["mse"]), "0.25"), ("0.5", "")]
    assert run(["report", "justdense", *options, "csv"]) == 1
    assert "justdense is several tables, for --format markdown only; read" in capsys.readouterr().err


def test_every_task_is_known():
    """Also those that nothing has used yet; run alone, this fails where the report waits for their first use."""
    assert {"SeriesClassification", "ShortTerm", "AnomalyDetection", "CausalLM"} <= report.all_tasks().keys()


def test_a_baseline_never_stands_for_the_model(tmp_path):
    rows = [("model,DLinear,", 0.6), ("baseline,DLinear,", 0.7)]
    lines = [f"d,0,{line}E,512,96,9,{mse},0.5,8,1" for line, mse in rows]
    (tmp_path / "d.csv").write_text(HEAD + "\n".join(lines))
    (row,) = summary(tmp_path, tmp_path / "none")
    assert (row["model"], row["test MSE"], row["DLinear"]) == ("DLinear", "0.600", "0.700")


def test_results_of_a_derived_task_stand_in_its_table(tmp_path):
    class Derived(Forecasting):
        """A task of one's own."""

    lines = [f"e,{i},model,TSM2,E,512,96,9,0.{i},0.5,10,1,{name}" for i, name in enumerate(("Forecasting", "Derived"))]
    (tmp_path / "e.csv").write_text(HEAD.replace("\n", ",task\n") + "\n".join(lines))
    (row,) = summary(tmp_path, tmp_path / "none")
    assert (row["seeds"], Derived.table) == (2, Forecasting.table)


def test_the_command_names_a_table_and_draws_it(results, published, tmp_path, capsys):
    picture = tmp_path / "lra.png"
    report.main("report", ["lra", f"--folder={results}", f"--published={published}", f"--plot={picture}"])
    assert "| l | ListOps-10 | 10 | PoNet |" in capsys.readouterr().out
    assert picture.stat().st_size > 5000
    with pytest.raises(ConfigError, match=r"table = 'nonsense' is not known; use one of .*forecasts"):
        report.main("report", ["nonsense"])


def test_a_paper_has_its_runs_beside_what_is_published_and_its_recipes(results, published, tmp_path):
    headers = {
        "c.yaml": "of a paper",
        "l.yaml": "our own; like",
        "recipes/r.yaml": "with a value of 7 in",
        "x.yaml": "",
    }
    pages = {f"docs/{name}.md": f"<!-- paper_{name} -->\n<!-- /paper_{name} -->" for name in ("1234_5", "9_9")}
    (tmp_path / "configs" / "recipes").mkdir(parents=True)
    for folder in (results, published):
        folder.rename(tmp_path / "configs" / folder.name)
    for name, what in headers.items():
        number = "1234.55" if name == "x.yaml" else "1234.5"
        (tmp_path / "configs" / name).write_text(
            f"# {what or 'Other'} it.\n# Source: {what} arXiv:{number}, table\n# 2.\nx: 1"
        )
    for name, text in {**pages, "README.md": "", "benchmarks/README.md": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"arXiv:9\.9 is the source of no config"):
        stale_pages(tmp_path)
    (tmp_path / "docs" / "9_9.md").unlink()
    (text,) = stale_pages(tmp_path).values()
    assert "Run here: MSE of TSM2," in text
    assert "| config | data | ours | published | DLinear | seeds |" in text
    assert "| c | E, 512 → 96 | 0.300 ± 0.141 | 0.25 | 0.600 | 2 |" in text
    assert "| r | with a value of 7 in it. |" in text
    assert text.count("\n| ") == 5 and "ListOps" not in text


@pytest.mark.parametrize(("table", "drawn"), [("forecasts", True), ("lra", False)])
def test_published_figures_of_another_task_are_not_drawn(table, drawn, results, published, tmp_path, monkeypatch):
    labels = []

    def savefig(figure, file, **options):
        file.touch()
        labels.extend(text.get_text() for text in figure.legends[0].get_texts())

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    report.draw(results, published, table, tmp_path / "x.png")
    assert "seqmix" in labels and ("published" in labels) == drawn


def test_runs_of_other_settings_are_not_averaged(tmp_path):
    told = [(0.1, "aaaaaaaa,"), (0.3, "aaaaaaaa,"), (0.5, "bbbbbbbb,model.lr=0.1"), (0.7, "bbbbbbbb,"), (0.9, ",")]
    lines = [f"c,{i % 2},model,TSM2,E,512,96,9,{x},0.5,10,1,Forecasting,{end}" for i, (x, end) in enumerate(told)]
    # the same columns of another task
    lines += ["c,0,model,TSM2,E,512,96,9,9.9,9.9,10,1,Other,aaaaaaaa,"]
    (tmp_path / "c.csv").write_text(HEAD.replace("\n", ",task,settings,changed\n") + "\n".join(lines))
    rows = summary(tmp_path, tmp_path / "none")
    assert {row["config"]: row["test MSE"] for row in rows} == {
        **{"c (aaaaaa)": "0.200 ± 0.141", "c (model.lr=0.1)": "0.600 ± 0.141", "c": "0.900"},
    }


def test_a_report_of_recorded_runs(tmp_path, monkeypatch):
    """DLinear as the model and as the baseline, other settings of it, and another task: each its own line or table."""
    monkeypatch.chdir(tmp_path)
    data = ["--data", "Cycles", "--data.context", "24", "--data.horizon", "8", "--data.n_steps", "300"]
    few = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--record", "true"]
    for lr in ("0.1", "0.001"):
        argv = ["--model", "Forecasting", "--model.model", "DLinear", "--model.optim.lr", lr, *data, *few]
        assert run(["fit", *argv, "--name", "same"]) == 0
    assert run(["fit", *argv, "--name", "same", "--ckpt_path", "last"]) == 0
    recorded = read_rows(tmp_path / "configs" / "results" / "same.csv")
    assert [row["role"] for row in recorded] == 2 * ["model", *["baseline"] * 3]
    rows = summary(tmp_path / "configs" / "results", tmp_path / "none")
    assert len({row["test MSE"] for row in rows}) == 2 and len({row["config"] for row in rows}) == 2
    assert {row["DLinear"] for row in rows} == {f"{float(recorded[3]['mse']):.3f}"}

    listops = ["--data", "ListOps", *(f"--data.n_{split}=8" for split in ("train", "val", "test")), "--data.root", "."]
    model = ["--model", "Classification", "--model.model", "SequenceClassifier", "--model.model.mixer", "Pool"]
    assert (
        run(
            [
                "fit",
                *model,
                "--model.model.d_model",
                "4",
                *listops,
                "--data.min_length",
                "4",
                "--data.max_length",
                "30",
                *few,
            ]
        )
        == 0
    )
    assert run(["fit", *argv]) == 0
    assert {p.name for p in (tmp_path / "configs" / "results").iterdir()} == {
        *("same.csv", "Forecasting-Cycles.csv", "Classification-ListOps.csv")
    }


def test_a_terminal_without_arrows(results, published, monkeypatch):
    """Windows' cp1252 has no arrow: it is printed as a question mark."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "argv", ["seqmix", "report", f"--folder={results}", f"--published={published}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown.flush()
    assert "512 ? 96" in shown.buffer.getvalue().decode("cp1252")
