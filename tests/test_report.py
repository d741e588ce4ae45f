"""The table of results: mean and deviation over seeds, beside baselines and published numbers."""

from seqmix.commands.report import summary

HEAD = "config,seed,model,data,context,horizon,windows,mse,mae,parameters\n"


def test_baselines_and_published_numbers_stand_beside_the_model(tmp_path):
    results, published = tmp_path / "results", tmp_path / "published.csv"
    results.mkdir()
    lines = [
        "c,0,TSM2,E,512,720,9,0.5,0.5,10",
        "c,0,TSM2,E,512,96,9,0.9,0.5,10",
        "c,0,DLinear,E,512,96,9,0.6,0.5,8",
        "c,1,TSM2,E,512,96,9,0.4,0.5,10",
        # run again: the newest of a seed counts
        "c,0,TSM2,E,512,96,9,0.2,0.5,10",
    ]
    (results / "c.csv").write_text(HEAD + "\n".join(lines))
    published.write_text("model,data,context,horizon,mse,source\nTSM2,E,512,96,0.25,paper\n")
    first, second = summary(results, published)
    assert (first["steps"], first["test MSE"], first["seeds"]) == ("512 → 96", "0.300 ± 0.141", 2)
    assert (first["published"], first["DLinear"], first["SeasonalNaive"]) == ("0.25", "0.600", "")
    assert (second["steps"], second["test MSE"], second["published"]) == ("512 → 720", "0.500", "")


def test_a_baseline_recorded_alone_is_shown(tmp_path):
    (tmp_path / "d.csv").write_text(HEAD + "d,0,DLinear,E,512,96,9,0.6,0.5,8\n")
    (row,) = summary(tmp_path, tmp_path / "none.csv")
    assert (row["model"], row["test MSE"]) == ("DLinear", "0.600")
