"""The documentation is executed: its commands, its Python and its tables; its links lead somewhere."""

import glob
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stand_ins import stand_in

from seqmix import Forecaster, cli
from seqmix.commands.generated import stale_pages
from seqmix.commands.train import Train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("**/*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
# commands that end soon; nothing else about them is changed. Sweeps train the baselines, and test_configs.py does
_FEW = "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1 --trainer.accelerator cpu"
LIMITS = {
    "fit": f"{_FEW} --trainer.limit_test_batches 1 --data.batch_size 4 --baselines []",
    "test": f"{_FEW} --trainer.limit_test_batches 1 --data.batch_size 4 --baselines []",
    "predict": f"{_FEW} --trainer.limit_predict_batches 1 --data.batch_size 4",
    "sweep": f"{_FEW} --trainer.limit_test_batches 1 --data.batch_size 4 --seeds 0",
    "tune": _FEW,
    "forecast": "--max_steps 3",
    "generate": "--tokens 3",
    "bench": "--lengths 16,32 --repeats 1",
}
# commands that .ci/run executes, and those that it leaves out because they take long or need a GPU
OUTSIDE = (
    "python3 -m venv",
    ". .venv",
    "pip install -e",
    "pytest",
    "ruff",
    "pyright",
    "sphinx-build",
    "bash .ci/run",
    "seqmix fit",
)


# language, name (a file that the block is written to, or a mark), code, and whether its output follows
BLOCK = re.compile(r"^```(\w+) ?([\w./-]*)\n(.*?)^```$(\n+(?=```text$))?", re.DOTALL | re.MULTILINE)
RUN = re.compile(r"^```(?:bash|python)$", re.MULTILINE)


def _blocks(language):
    """Fenced blocks of each page; what follows the name of the language is part of it."""
    for page, text in TEXTS.items():
        for number, block in enumerate(re.findall(rf"```{re.escape(language)}\n(.*?)```", text, re.DOTALL), 1):
            yield pytest.param(block, id=f"{page}-{number}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder outside the clone with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("results", "published"):
        shutil.copytree(ROOT / "configs" / name, tmp_path / "configs" / name)
    rng = np.random.default_rng(0)
    days = pd.date_range("2026-01-01", periods=200, freq="D")
    pd.DataFrame({"ds": days, "y": rng.normal(10, 1, 200)}).to_csv("sales.csv", index=False)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "black.png")
    hours = pd.date_range("2026-01-01", periods=800, freq="h")
    table = pd.DataFrame({"time": hours, "a": rng.normal(size=800), "b": rng.normal(size=800)})
    table.to_csv("my.csv", index=False)
    table.mask(rng.random(table.shape) < 0.05).assign(time=hours).to_csv("sensors.csv", index=False)
    head = "@problemName waves\n@timeStamps false\n@univariate true\n@classLabel true a b\n@data\n"
    rows = [",".join(map(str, rng.normal(size=20))) + f":{'ab'[i % 2]}" for i in range(8)]
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"waves_{part}.ts").write_text(head + "\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if RUN.search(text)])
def test_page_runs(page, folder, monkeypatch, capsys):
    """The blocks of a page in turn, in one folder and one module; each may use what those before it made."""
    build, module, printed = Train.instantiate_classes, ModuleType("page"), ""

    def instantiate(self):
        build(self)
        if self.build:
            stand_in(self.datamodule, monkeypatch)

    monkeypatch.setattr(Train, "instantiate_classes", instantiate)
    monkeypatch.setitem(sys.modules, "page", module)
    capsys.readouterr()
    for language, name, code, shown in BLOCK.findall(TEXTS[page]):
        if language == "text":
            # numbers differ between machines, and widths with them
            assert not printed or _words(printed) == _words(code), f"{page}: output is now\n{printed}"
        elif "." in name:
            Path(name).write_text(code)
        elif language == "bash":
            for line in _lines(code):
                _run(line)
        elif language == "sh":
            # lines that take long: their options are checked
            for line in _lines(code):
                if line.startswith("seqmix fit"):
                    Train("fit", shlex.split(line, comments=True)[2:], build=False)
        elif language == "python" and not name:
            exec(compile(code, f"{page}, block", "exec"), vars(module))
        printed = capsys.readouterr().out if shown and language in ("bash", "python") else ""
    for name in [name for name, each in sys.modules.items() if str(folder) in str(getattr(each, "__file__", None))]:
        monkeypatch.delitem(sys.modules, name)


def _lines(code):
    return [line for line in code.replace("\\\n", "").splitlines() if not line.startswith("#")]


def _run(line):
    """A line of a shell as it stands, with limits appended."""
    program, *words = shlex.split(line, comments=True)
    if program != "seqmix":
        assert all(part.strip().startswith(OUTSIDE) for part in line.partition("#")[0].split("&&")), line
        return
    command, *options = (match for word in words for match in sorted(glob.glob(word)) or [word])
    limits = "" if {"--images", "--load"} & {*options} else LIMITS.get(command, "")
    assert cli.run([command, *options, *limits.split()]) == 0, line


def _words(text):
    return re.sub(r"[-+\d.,:]*\d[\d.,:e+-]*|NaN|-{3,}|[^\w\s]{3,}", " ", text).split()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("code", [*_blocks("python ray")])
def test_python_with_ray_runs(code, folder):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'seqmix[scale]'")
    try:
        exec(compile(code, "page", "exec"), {"__name__": "page"})
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("code", [*_blocks("python serve.py")])
def test_the_server_forecasts_as_the_forecaster(code, folder):
    testing = pytest.importorskip("fastapi.testclient", reason="needs pip install fastapi httpx")
    pytest.importorskip("onnxruntime", reason="needs pip install 'seqmix[export]'")
    sales = pd.read_csv("sales.csv", parse_dates=["ds"])
    forecaster = Forecaster("DLinear", 14, levels=[80], max_steps=3, device="cpu").fit(sales)
    forecaster.export("demand.onnx")
    Path("serve.py").write_text(code)
    with testing.TestClient(runpy.run_path("serve.py")["app"]) as client:
        assert client.get("/").json()["horizon"] == 14
        history = sales["y"].tolist()
        history[-5] = None
        found = client.post("/forecast", json={"values": [history, [1.0], history]})
        assert found.status_code == 200
        # one series is scaled as in the fit, whatever the window
        want = forecaster.predict(sales.assign(y=pd.array(history, "Float64")))
        for name, column in (("y", "DLinear"), ("lo-80", "DLinear-lo-80"), ("hi-80", "DLinear-hi-80")):
            np.testing.assert_allclose(found.json()[name][2], want[column], rtol=1e-4)
        for wrong in ({"values": []}, {"values": [[]]}, {"values": [["x"]]}, {}):
            assert client.post("/forecast", json=wrong).status_code == 422


def test_the_server_is_short():
    (block,) = _blocks("python serve.py")
    (code,) = block.values
    assert len([line for line in code.splitlines() if line]) <= 40
    compile(code, "serve.py", "exec")


def test_generated_parts_are_fresh():
    assert not stale_pages(ROOT).keys(), "run `seqmix list --write`"


def test_every_command_and_file_that_is_named_exists():
    for page, text in TEXTS.items():
        for command in re.findall(r"`seqmix ([a-z]+)", text):
            assert command in cli.COMMANDS, f"{page}: {command}"
        named = re.findall(r"`((?:benchmarks|seqmix|tests)/[\w/]+\.py)`", text)
        for file in (*named, *re.findall(r"(configs/(?:recipes/)?\w+\.yaml)", text)):
            assert (ROOT / file).exists(), f"{page}: {file}"
        for file in re.findall(r"""src(?:set)?="([^"]+)""", text):
            assert "://" in file or (ROOT / page).parent.joinpath(file).exists(), f"{page}: {file}"


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere_and_pictures_are_described(page):
    """Files and headings; what is made at build has ``project:`` before it, and the build checks it."""
    prose = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    for picture, words, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", prose):
        assert words or not picture, f"{page}: a picture without a description, {target}"
        if re.match(r"https?:|project:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent.joinpath(path) if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file.read_text()), f"{page}: {target}"


def _anchors(text):
    """Headings as GitHub and MyST name them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("index", sorted((ROOT / "docs").glob("*/index.md")), ids=lambda path: path.parent.name)
def test_pages_are_listed_in_the_order_of_the_toctree(index):
    text, _, toctree = index.read_text().partition("```{toctree}\n")
    listed = re.findall(r"\]\((?:project:)?([\w/-]+)\.(?:md|rst)\)", text)
    assert toctree.partition("```")[0].split()[1:] == listed
    assert {file.stem for file in index.parent.glob("*.md")} - {"index"} <= {*listed}


def test_ci_runs_the_two_commands_of_the_readme():
    lines = re.findall(r"^(python3 -m venv .*)$", TEXTS["README.md"], re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    assert len(lines) == 2
    for line in lines:
        end = line.rpartition("&&")[2].strip()
        assert f"&& {end}$' README.md" in script
