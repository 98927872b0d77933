"""Who wrote each image: the files that know it, the hold-out by writers, and accuracies of groups of writers."""

import gzip
import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import data, train_loop
from digits_jax.config import resolve
from digits_jax.data import idx, qmnist
from digits_jax.data.qmnist import GROUPS, Writers, hold_out
from digits_jax.errors import ConfigError, UserError

# Of the 30 and 20 images in `idx_files`: employees and students take turns, and each writer wrote two images or three.
TRAIN = Writers(np.tile([0, 4], 15).astype(np.int32), np.repeat(np.arange(6), 5).astype(np.int32) + 10)
TRAIN = Writers(TRAIN.series, TRAIN.writer + 2000 * (TRAIN.series == 4).astype(np.int32))
TEST = Writers(np.repeat([4, 0], 10).astype(np.int32), np.repeat([7000, 7], 10).astype(np.int32))


def label_file(labels: np.ndarray, written: Writers, *, more_rows: int = 0) -> bytes:
    table = np.zeros((len(labels) + more_rows, 8), ">i4")
    table[: len(labels), :3] = np.stack([labels, written.series, written.writer], axis=1)
    return gzip.compress(struct.pack(">3I", 0x0C02, *table.shape) + table.tobytes(), mtime=0)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, idx_files: dict, write_idx: Callable, tmp_path: Path) -> ConfigDict:
    """The arguments of `load` for a data set whose writers are known; their files are in its source directory."""
    source = write_idx(idx_files)
    spec = data.DatasetSpec(
        version="1.0.0", description="tiny", homepage="http://127.0.0.1", read=idx.IdxFiles().read, cached=True,
        writers_known=True,
    )  # fmt: skip
    monkeypatch.setitem(data.DATASETS, "written", spec)
    arrays = idx.IdxFiles().read(source)
    contents = {
        "train": label_file(arrays.train_labels, TRAIN),
        "test": label_file(arrays.test_labels, TEST, more_rows=5),  # QMNIST has 50,000 more
    }
    monkeypatch.setattr(qmnist, "SHA256", {k: hashlib.sha256(v).hexdigest() for k, v in contents.items()})
    monkeypatch.setattr(qmnist, "URL", "http://127.0.0.1:1/")
    for split, content in contents.items():
        (source / qmnist.FILES[split]).write_bytes(content)
    return ConfigDict({
        "name": "written", "data_dir": str(tmp_path / "data"), "source_dir": str(source), "train_examples": None,
        "validation_examples": 12, "validation_split": "writers",
    })  # fmt: skip


def images_of(dataset: data.Dataset, whole: data.Dataset) -> np.ndarray:
    """Returns the indices of validation images among those of the whole data set."""
    lookup = {image.tobytes(): index for index, image in enumerate(whole.arrays.train_images)}
    return np.array([lookup[image.tobytes()] for image in dataset.validation_images])


def test_no_writer_of_held_out_images_wrote_others(written: ConfigDict) -> None:
    dataset = data.load(**written)
    whole = data.load(**{**written, "validation_examples": 0, "validation_split": "last"})
    held_out = images_of(dataset, whole)
    others = np.setdiff1d(np.arange(30), held_out)
    assert 0 < len(held_out) <= 12
    assert len(dataset.arrays.train_labels) == len(others)
    assert not set(TRAIN.writer[held_out]) & set(TRAIN.writer[others])
    np.testing.assert_array_equal(dataset.validation_labels, whole.arrays.train_labels[held_out])
    np.testing.assert_array_equal(dataset.arrays.train_images, whole.arrays.train_images[others])
    groups = dataset.groups("validation")
    assert abs(int(groups["employees"].sum()) - int(groups["students"].sum())) <= 1
    np.testing.assert_array_equal(groups["students"], TRAIN.series[held_out] == GROUPS["students"])
    np.testing.assert_array_equal(dataset.groups("test")["students"], np.arange(20) < 10)


def test_a_group_that_wrote_none_of_the_images_has_no_accuracy(written: ConfigDict) -> None:
    written.test_examples = 10  # all by students
    assert [*data.load(**written).groups("test")] == ["students"]


def test_the_hold_out_is_a_fixed_rule() -> None:
    numbers = np.arange(600)
    wrote = Writers(np.where(numbers % 2, 4, 0).astype(np.int32), (numbers // 30).astype(np.int32) + numbers % 2 * 2000)
    held_out = hold_out(wrote, 100)
    # Forty writers of 15 images each; three of either group fit into 50 images, in the order of their hashes.
    assert held_out.sum() == 90
    # By `printf 9 | sha256sum`, and so on.
    assert sorted(set(wrote.writer[held_out])) == [8, 9, 13, 2017, 2018, 2019]


def test_images_read_from_the_prepared_files_are_those_not_held_out(written: ConfigDict) -> None:
    dataset = data.load(**written)
    images, labels = dataset.open_train()(np.array([3, 0]))
    np.testing.assert_array_equal(images, dataset.arrays.train_images[[3, 0]])
    np.testing.assert_array_equal(labels, dataset.arrays.train_labels[[3, 0]])


def test_files_are_kept_beside_the_prepared_data(written: ConfigDict) -> None:
    first = data.load(**written)
    written.source_dir = None
    again = data.load(**written)
    np.testing.assert_array_equal(first.validation_images, again.validation_images)
    written.update(validation_split="last", validation_examples=0)
    assert data.load(**written).groups("test")  # known without asking


@pytest.fixture
def served(tmp_path: Path, written: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Moves the label files to a server on 127.0.0.1."""
    source, folder = Path(written.source_dir), tmp_path / "served"
    folder.mkdir()
    for name in qmnist.FILES.values():
        (source / name).rename(folder / name)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(qmnist, "URL", f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_are_downloaded_only_where_they_are_needed(written: ConfigDict, served: None) -> None:
    assert not data.load(**{**written, "validation_split": "last"}).writers
    assert data.load(**written).groups("validation")
    assert (Path(written.data_dir) / "written/1.0.0" / qmnist.FILES["train"]).is_file()


def test_without_the_files_the_field_ends_in_one_line(written: ConfigDict) -> None:
    for name in qmnist.FILES.values():
        (Path(written.source_dir) / name).unlink()
    with pytest.raises(UserError, match=r"http://127.0.0.1:1/qmnist-train-labels-idx2-int.gz cannot be reached"):
        data.load(**written)


def test_a_data_set_whose_writers_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"validation_split is 'writers': expected 'last' for kmnist, whose writers"):
        data.load("kmnist", validation_examples=10, validation_split="writers")


def test_a_damaged_file_is_named(written: ConfigDict) -> None:
    path = Path(written.source_dir) / qmnist.FILES["test"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"qmnist-test-labels-idx2-int.gz is not the original .* expected"):
        data.load(**written)


def test_prepared_data_in_another_order_are_refused(written: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(written.source_dir)
    arrays = idx.IdxFiles().read(source)
    content = label_file(arrays.train_labels[::-1], TRAIN)
    monkeypatch.setitem(qmnist.SHA256, "train", hashlib.sha256(content).hexdigest())
    (source / qmnist.FILES["train"]).write_bytes(content)
    with pytest.raises(UserError, match=r"describes other images than .*, which were prepared in another order"):
        data.load(**written)


def test_a_run_can_leave_the_test_images_alone(
    written: ConfigDict, small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = data.load(**written)
    small_config.update(batch_size=8, epochs=(2,), learning_rates=(0.01,))
    small_config.dataset.update(validation_examples=12, validation_split="writers", score_test=False)
    assert resolve(small_config, dataset) == resolve(ConfigDict(resolve(small_config, dataset)), dataset)
    rows = train_loop.train_and_evaluate(small_config, tmp_path / "run", dataset=dataset)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert not [key for row in (*rows, result["final"], result["best"]) for key in row if key.startswith("test")]
    assert "test_errors" not in result
    assert result["scored"] == {"validation": len(dataset.validation_labels)}
    wrong = np.isin(np.arange(len(dataset.validation_labels)), result["validation_errors"])
    assert result["final"]["validation/accuracy"] == pytest.approx(1 - wrong.mean())
    for group, images in dataset.groups("validation").items():
        assert result["final"][f"validation_{group}/accuracy"] == pytest.approx(1 - wrong[images].mean())
    employees, students = (result["final"][f"validation_{group}/accuracy"] for group in ("employees", "students"))
    assert (
        f"final, by writers            validation employees accuracy {employees:.2%}  "
        f"validation students accuracy {students:.2%}\n"
    ) in capsys.readouterr().out
    # Opened again, the finished run is believed.
    assert train_loop.train_and_evaluate(small_config, tmp_path / "run", dataset=dataset) == rows


@pytest.mark.parametrize(
    "fields",
    [
        {"validation_split": "writers"},
        {"score_test": False},
    ],
)
def test_fields_that_need_held_out_images(small_config: ConfigDict, tmp_path: Path, fields: dict) -> None:
    small_config.dataset.update(fields)
    with pytest.raises(ConfigError, match=r"validation_examples is 0: expected > 0, to score these images"):
        train_loop.train_and_evaluate(small_config, tmp_path)
