"""From source to arrays: preparation, the cache, and what happens where something is missing."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from digits_jax import data
from digits_jax.data import idx, optical_digits
from digits_jax.errors import UserError
from tests.conftest import idx_bytes


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, idx_files: dict, write_idx: Callable, tmp_path: Path) -> ConfigDict:
    """The arguments of `load` for a data set "tiny" of 30 and 20 random images, to be read from IDX files."""
    files = idx.IdxFiles(url="http://127.0.0.1:1/")
    spec = data.DatasetSpec(
        version="1.0.0", description="tiny", homepage="http://127.0.0.1", read=files.read, cached=True
    )
    monkeypatch.setitem(data.DATASETS, "tiny", spec)
    fields = {"name": "tiny", "data_dir": str(tmp_path / "data"), "source_dir": str(write_idx(idx_files))}
    return ConfigDict(
        fields | {"train_examples": None, "test_examples": None, "validation_examples": 0, "validation_split": "last"}
    )


def cache_file(config: ConfigDict) -> Path:
    return Path(config.data_dir) / config.name / "1.0.0" / "digits_jax_arrays.npz"


def same(a: data.Dataset, b: data.Dataset) -> bool:
    return a.sha256 == b.sha256 and all((x == y).all() for x, y in zip(a.arrays, b.arrays, strict=True))


def test_source_cache_and_prepared_data_give_the_same_arrays(tiny: ConfigDict) -> None:
    from_source = data.load(**tiny)
    tiny.source_dir = None
    assert same(data.load(**tiny), from_source)  # from the cache
    cache_file(tiny).unlink()
    assert same(data.load(**tiny), from_source)  # from the prepared TFDS data set
    assert cache_file(tiny).exists()


def test_a_source_with_other_images_than_those_prepared(tiny: ConfigDict, idx_files: dict, write_idx: Callable) -> None:
    before = data.load(**tiny)
    arrays = before.arrays
    order = np.random.default_rng(0).permutation(30)
    shuffled = {"train-images-idx3-ubyte": arrays.train_images[order, ..., 0]}
    shuffled["train-labels-idx1-ubyte"] = arrays.train_labels[order]
    write_idx(idx_files | {name: idx_bytes(array) for name, array in shuffled.items()})
    assert same(data.load(**tiny), before)  # TFDS itself prepares them in another order
    shuffled["train-labels-idx1-ubyte"] = arrays.train_labels
    write_idx(idx_files | {name: idx_bytes(array) for name, array in shuffled.items()})
    for remove in (False, True):
        if remove:
            cache_file(tiny).unlink()
        with pytest.raises(UserError, match=r"source_dir=.* holds other images than .*tiny/1.0.0, which was prepared"):
            data.load(**tiny)


def test_prepared_data_are_an_ordinary_tfds_data_set(tiny: ConfigDict) -> None:
    dataset = data.load(**tiny)
    source = tfds.data_source("tiny", data_dir=tiny.data_dir, split="test")
    assert len(source) == 20
    for i in (0, 19):
        np.testing.assert_array_equal(source[i]["image"], dataset.arrays.test_images[i])
        assert source[i]["label"] == dataset.arrays.test_labels[i]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other"])
def test_a_damaged_cache_is_made_again(tiny: ConfigDict, damage: str, capsys: pytest.CaptureFixture) -> None:
    before = data.load(**tiny)
    path = cache_file(tiny)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "truncate": content[:-500], "empty": b"", "other": b"PK not an archive"}[damage])
    assert same(data.load(**tiny), before)
    assert "digits_jax_arrays.npz cannot be read (ValueError: it fails its checksum)" in capsys.readouterr().err
    assert same(data.load(**tiny), before)
    assert "checksum" not in capsys.readouterr().err


def test_no_damage_to_the_cache_reaches_a_decoder(tiny: ConfigDict, capsys: pytest.CaptureFixture) -> None:
    data.load(**tiny)
    path = cache_file(tiny)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    headers = [*range(300), *range(len(content) - 700, len(content))]  # of the first array, and of the archive
    for position in random.choice(headers, 100, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        assert data.read_cache(path) is None
    assert capsys.readouterr().err.count("fails its checksum") == 100
    path.write_bytes(content)
    assert data.read_cache(path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("dataset_info.json", lambda content: content[:100]),
        ("dataset_info.json", lambda content: content.replace(b"array_record", b"array_recorc")),
        ("features.json", lambda content: content.replace(b'"label"', b'"lebel"')),
        ("features.json", lambda content: content.replace(b"class_label_feature", b"class_label_fiature")),
        ("tiny-train.array_record-00000-of-00001", lambda content: content[:1000]),
        ("tiny-train.array_record-00000-of-00001", lambda content: content[:5000] + bytes(9) + content[5009:]),
        ("tiny-test.array_record-00000-of-00001", lambda content: b""),
    ],
)
def test_damaged_prepared_data_are_named(tiny: ConfigDict, name: str, damage: Callable[[bytes], bytes]) -> None:
    before = data.load(**tiny)
    cache_file(tiny).unlink()
    path = before.folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as error:
        data.load(**tiny)
    message = str(error.value)
    assert str(path if "array_record" in name else before.folder) in message
    assert message.endswith(f": it is corrupted; delete {before.folder} to prepare the data set again")
    assert "\n" not in message
    shutil.rmtree(before.folder)
    assert same(data.load(**tiny), before)


def test_training_and_test_images_of_different_sizes(tiny: ConfigDict, idx_files: dict, write_idx: Callable) -> None:
    write_idx(idx_files | {"t10k-images-idx3-ubyte": idx_bytes(np.zeros((20, 28, 20), np.uint8))})
    with pytest.raises(UserError, match=r"t10k-images.* holds images of 28x20 pixels: expected 28x28 as in train-"):
        data.load(**tiny)
    assert not cache_file(tiny).parent.exists()


def test_a_data_set_that_is_not_in_the_table() -> None:
    with pytest.raises(UserError, match=r"the data set is 'minst': expected one of mnist, fashion_mnist, kmnist, opt"):
        data.load("minst")


def test_the_section_of_a_config(tiny: ConfigDict) -> None:
    tiny.update(train_examples=7, another_field=1)
    assert len(data.load_configured(tiny).arrays.train_labels) == 7


def test_a_cache_with_a_consistent_archive_but_other_pixels_is_found_out(tiny: ConfigDict) -> None:
    before = data.load(**tiny)
    with np.load(cache_file(tiny)) as file:
        content = dict(file)
    content["train_images"][0, 0, 0, 0] ^= 1
    np.savez(cache_file(tiny), **content)
    assert same(data.load(**tiny), before)


def test_the_hash_tells_data_apart(tiny: ConfigDict) -> None:
    dataset = data.load(**tiny)
    assert data.content_hash(dataset.arrays) == dataset.sha256
    changed = dataset.arrays._replace(test_labels=(dataset.arrays.test_labels + 1) % 10)
    assert data.content_hash(changed) != dataset.sha256


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_the_table_says_what_tfds_says(name: str) -> None:
    builder = tfds.builder_cls(name)
    files = data.DATASETS[name].read.__self__  # type: ignore[attr-defined]
    assert data.DATASETS[name].version == str(builder.VERSION)
    known = tfds.core.download.checksums.get_all_url_infos()
    for key, file in idx.FILES.items():
        checksum = known[f"{files.url}{file}.gz"].checksum
        assert files.gzip_sha256.get(key, checksum) == checksum


def test_train_examples_are_the_first_ones(tiny: ConfigDict) -> None:
    whole = data.load(**tiny)
    tiny.train_examples = 7
    part = data.load(**tiny)
    np.testing.assert_array_equal(part.arrays.train_images, whole.arrays.train_images[:7])
    assert len(part.arrays.train_labels) == 7
    assert len(part.arrays.test_labels) == 20
    tiny.train_examples = 31
    with pytest.raises(UserError, match=r"config.dataset.train_examples is 31: expected at most the 30 training"):
        data.load(**tiny)


def test_test_examples_are_the_first_ones(tiny: ConfigDict) -> None:
    whole = data.load(**tiny)
    for asked, found in ((7, 7), (20, 20), (1_000, 20)):
        tiny.test_examples = asked
        part = data.load(**tiny)
        np.testing.assert_array_equal(part.arrays.test_images, whole.arrays.test_images[:found])
        np.testing.assert_array_equal(part.arrays.test_labels, whole.arrays.test_labels[:found])
        assert part.sha256 == whole.sha256


def test_validation_examples_are_the_last_ones(tiny: ConfigDict) -> None:
    whole = data.load(**tiny)
    assert len(whole.validation_labels) == 0
    tiny.validation_examples = 10
    part = data.load(**tiny)
    np.testing.assert_array_equal(part.validation_images, whole.arrays.train_images[20:])
    np.testing.assert_array_equal(part.validation_labels, whole.arrays.train_labels[20:])
    np.testing.assert_array_equal(part.arrays.train_images, whole.arrays.train_images[:20])
    assert part.sha256 == whole.sha256
    tiny.train_examples = 20
    assert len(data.load(**tiny).arrays.train_labels) == 20
    tiny.train_examples = 21
    with pytest.raises(UserError, match=r"train_examples is 21: .* at most the 20 training images .* not held out"):
        data.load(**tiny)
    tiny.train_examples, tiny.validation_examples = None, 30
    with pytest.raises(UserError, match=r"validation_examples is 30: expected fewer than the 30 training images"):
        data.load(**tiny)


def test_data_that_cannot_be_had_names_the_ways_out(tiny: ConfigDict) -> None:
    tiny.source_dir = None
    with pytest.raises(UserError) as error:
        data.load(**tiny)
    for part in (
        "tiny is not prepared in",
        "http://127.0.0.1:1/train-images-idx3-ubyte.gz cannot be reached",
        f"python -m digits_jax.data --name=tiny --data_dir={tiny.data_dir} --source_dir=FOLDER",
        "optical_digits",
    ):
        assert part in str(error.value)


def test_data_dir_that_cannot_be_written(tiny: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tiny.data_dir = str(tmp_path / "file")
    with pytest.raises(UserError, match=r"tiny cannot be prepared in .*file .*--config.dataset.data_dir=FOLDER"):
        data.load(**tiny)


def test_what_is_in_the_way_is_named(tiny: ConfigDict) -> None:
    cache_file(tiny).mkdir(parents=True)  # not empty, and no data set
    with pytest.raises(UserError, match=r"tiny cannot be prepared in .*not empty: '.*/tiny/1.0.0'\): make room there"):
        data.load(**tiny)
    cache_file(tiny).rmdir()
    cache_file(tiny).parent.rmdir()
    cache_file(tiny).parent.write_text("")
    with pytest.raises(UserError, match=r"tiny cannot be prepared in .*Not a directory: '.*/tiny/1.0.0'"):
        data.load(**tiny)


def test_an_empty_folder_is_not_taken_for_a_data_set(tiny: ConfigDict) -> None:
    cache_file(tiny).parent.mkdir(parents=True)
    assert data.is_prepared(data.load(**tiny).folder)


def test_a_name_that_no_file_system_has(tiny: ConfigDict) -> None:
    tiny.data_dir += "x" * 300
    with pytest.raises(UserError, match=r"tiny cannot be prepared in .*File name too long"):
        data.load(**tiny)


def test_a_full_disk(tiny: ConfigDict, capfd: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(UserError, match=r"^tiny cannot be prepared in [^\n]*File too large[^\n]*data_dir=FOLDER$"):
            data.load(**tiny)
        assert not list(Path(tiny.data_dir, "tiny").iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        before = data.load(**tiny)
        cache_file(tiny).unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        assert same(data.load(**tiny), before)
        assert "cannot be cached in" in capfd.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_killed_processes_left_is_removed(tiny: ConfigDict) -> None:
    parent = cache_file(tiny).parents[1]
    left = parent / "incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    (left / "tiny-train.array_record").write_text("")
    data.load(**tiny)
    assert [path.name for path in parent.iterdir()] == ["1.0.0"]
    before = set(cache_file(tiny).parent.iterdir())
    cache_file(tiny).with_name("digits_jax_arrays.npz.7.tmp").write_text("")
    cache_file(tiny).write_text("damaged")
    data.load(**tiny)
    assert set(cache_file(tiny).parent.iterdir()) == before


def test_no_damage_is_a_traceback_or_goes_unnoticed(tiny: ConfigDict, capsys: pytest.CaptureFixture[str]) -> None:
    before = data.load(**tiny)
    random = np.random.default_rng(0)
    contents = {path: path.read_bytes() for path in sorted(before.folder.iterdir())}
    cache = cache_file(tiny)
    messages = []
    for path, content in contents.items():
        for _ in range(15):
            body = bytearray(content[:-32] if path == cache else content)
            # Of the cache the headers, which are nothing but text and numbers to NumPy.
            start = int(random.choice([random.integers(300), len(body) - 1 - random.integers(300)]))
            start, size = max(start, 0), int(random.integers(1, 9))
            body[start : start + size] = bytes(size) if random.random() < 0.5 else random.bytes(size)
            cache.unlink(missing_ok=True)
            path.write_bytes(body + hashlib.sha256(body).digest() if path == cache else body)
            try:
                assert same(data.load(**tiny), before)
            except UserError as error:
                messages.append(str(error))
        path.write_bytes(content)
    assert len(messages) > 15
    assert all(str(before.folder) in message and "\n" not in message for message in messages)


def test_data_prepared_as_tfrecords(tiny: ConfigDict) -> None:
    data.load(**tiny)
    cache_file(tiny).unlink()
    info = cache_file(tiny).with_name("dataset_info.json")
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"holds tfrecord files, which need TensorFlow: .*data_dir=FOLDER"):
        data.load(**tiny)


def test_where_data_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert data.resolve_data_dir(None) == Path.home() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert data.resolve_data_dir(None) == tmp_path
    assert data.resolve_data_dir("/elsewhere") == Path("/elsewhere")


def test_optical_digits_stand_in_mnists_frame(data_dir: Path) -> None:
    dataset = data.load("optical_digits", data_dir=str(data_dir))
    train, test = dataset.arrays.train_images, dataset.arrays.test_images
    assert (train.shape, test.shape) == ((1437, 28, 28, 1), (360, 28, 28, 1))
    frame = train.copy()
    frame[:, 4:24, 4:24] = 0
    assert frame.max() == 0
    assert train.max() == 255
    assert sorted(set(dataset.arrays.train_labels.tolist())) == list(range(10))


def test_optical_digits_have_no_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source_dir is given, but optical_digits ships with scikit-learn"):
        optical_digits.read(tmp_path)


def test_cached_data_load_without_other_packages(data_dir: Path) -> None:
    data.load("optical_digits", data_dir=str(data_dir))
    code = (
        "import sys; from digits_jax import data;"
        f"data.load('optical_digits', data_dir={str(data_dir)!r});"
        "print({'tensorflow_datasets', 'etils', 'sklearn', 'PIL', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_real_mnist(mnist_source: Path, tmp_path: Path) -> None:
    dataset = data.load("mnist", data_dir=str(tmp_path), source_dir=str(mnist_source))
    assert (len(dataset.arrays.train_labels), len(dataset.arrays.test_labels)) == (60_000, 10_000)
    assert dataset.sha256 == "804c495be71a260fea6315306b72846e880ee6814bd2926df810bc0ea245da50"
    assert dataset.arrays.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.arrays.train_images.mean() == pytest.approx(33.318421, abs=1e-6)
    source = tfds.data_source("mnist", data_dir=tmp_path, split="train")  # with TFDS's own builder
    assert len(source) == 60_000
    np.testing.assert_array_equal(source[59_999]["image"], dataset.arrays.train_images[59_999])
