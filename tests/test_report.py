"""The tables of results: mean and deviation over seeds, beside baselines and published numbers; and their picture."""

import pytest

from seqmix.commands import report
from seqmix.commands.report import summary

HEAD = "config,seed,model,data,context,horizon,windows,mse,mae,parameters,seconds\n"
LRA = "config,seed,model,data,n_classes,max_len,examples,accuracy,loss,parameters,seconds\n"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    lines = [
        "c,0,TSM2,E,512,720,9,0.5,0.5,10,360",
        "c,0,TSM2,E,512,96,9,0.9,0.5,10,9000",
        "c,0,DLinear,E,512,96,9,0.6,0.5,8,1",
        "c,1,TSM2,E,512,96,9,0.4,0.5,10,1080",
        # run again: the newest of a seed counts
        "c,0,TSM2,E,512,96,9,0.2,0.5,10,360",
    ]
    (folder / "c.csv").write_text(HEAD + "\n".join(lines))
    lines = ["l,0,PoNet,ListOps-10,10,10,9,0.5,1.5,10,36", "l,0,Majority,ListOps-10,10,10,9,0.1,2.5,0,0"]
    (folder / "l.csv").write_text(LRA + "\n".join(lines))
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
    assert (first["published"], first["DLinear"], first["SeasonalNaive"]) == ("0.25", "0.600", "")
    # 360 and 1,080 seconds
    assert first["hours"] == "0.20"
    assert (second["steps"], second["test MSE"], second["published"]) == ("512 → 720", "0.500", "")


def test_a_published_figure_of_another_protocol_says_so(results, published):
    (row,) = summary(results, published, "lra")
    assert (row["model"], row["length"], row["test accuracy"], row["Majority"]) == ("PoNet", "10", "0.500", "0.100")
    assert row["published"] == "0.378 (up to 2,000 tokens)"
    assert summary(results, published, "language") == summary(results, published, "glue") == []


def test_a_baseline_recorded_alone_is_shown(tmp_path):
    (tmp_path / "d.csv").write_text(HEAD + "d,0,DLinear,E,512,96,9,0.6,0.5,8,1\n")
    (row,) = summary(tmp_path, tmp_path / "none")
    assert (row["model"], row["test MSE"], row["DLinear"]) == ("DLinear", "0.600", "")


def test_the_command_names_a_table_and_draws_it(results, published, tmp_path, capsys):
    picture = tmp_path / "lra.png"
    report.main("report", ["lra", f"--folder={results}", f"--published={published}", f"--plot={picture}"])
    assert "| l | ListOps-10 | 10 | PoNet |" in capsys.readouterr().out
    assert picture.stat().st_size > 5000
    with pytest.raises(SystemExit):
        report.main("report", ["nonsense"])
