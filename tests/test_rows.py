"""Result files: no row is lost or changed, whoever writes at the same time and whatever the file holds."""

import multiprocessing
import time

import pytest

from seqmix.errors import DataError
from seqmix.tasks.lock import locked
from seqmix.tasks.rows import append_rows, keep_rows, read_rows

# children that append or sleep, and start in a millisecond
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def _append(path, process):
    for i in range(15):
        append_rows(path, [{"process": process, "row": i}])


def test_processes_that_append_at_once_lose_no_row(tmp_path):
    workers = [FORK.Process(target=_append, args=(tmp_path / "r.csv", k)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = {(row["process"], row["row"]) for row in read_rows(tmp_path / "r.csv")}
    assert found == {(str(k), str(i)) for k in range(4) for i in range(15)}
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]


def test_columns_are_known_by_name(tmp_path):
    """Another order, new and missing columns, and a last line without an end."""
    path = tmp_path / "r.csv"
    path.write_text('a,b\n1.50,"x, y"\n2,')
    append_rows(path, [{"b": "z", "a": 3.25, "c": None}])
    append_rows(path, [{"a": "é"}])
    assert path.read_bytes().decode() == 'a,b,c\n1.50,"x, y",\n2,,\n3.25,z,\né,,\n'


def test_a_row_of_the_same_key_stands_once(tmp_path):
    path = tmp_path / "r.csv"
    for seconds, mse in ((1, 0.5), (2, 0.5), (3, 0.25)):
        append_rows(path, [{"run": "a", "mse": mse, "seconds": seconds}], key=("run", "mse"))
    assert [row["seconds"] for row in read_rows(path)] == ["1", "3"]
    keep_rows(path, lambda row: row["seconds"] == "3")
    assert read_rows(path) == [{"run": "a", "mse": "0.25", "seconds": "3"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,a\n1,2\n", "names a column twice: a, a"), ("a,b\n1,2\n1,2,3\n", "row 3: 3 cells under 2 columns")],
)
def test_a_file_that_is_no_table_is_refused_and_left(text, message, tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        append_rows(path, [{"a": 1}])
    assert path.read_text() == text


def _hold(path, held):
    with locked(path):
        held.set()
        time.sleep(60)


def test_a_lock_ends_with_its_process(tmp_path):
    held = FORK.Event()
    other = FORK.Process(target=_hold, args=(tmp_path / "lock", held))
    other.start()
    held.wait()
    with pytest.raises(BlockingIOError, match="locked by another process"), locked(tmp_path / "lock", wait=False):
        pass
    other.kill()
    other.join()
    with locked(tmp_path / "lock", wait=False):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()
