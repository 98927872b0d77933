"""IDX files: read gzipped or not; each way of being wrong is named."""

import gzip
import hashlib
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from digits_jax.data import Arrays, idx
from digits_jax.errors import UserError
from tests.conftest import idx_bytes

Files = dict[str, bytes]
Write = Callable[[Files], Path]
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def read(folder: Path, **sha256: str) -> Arrays:
    files = idx.IdxFiles(url="http://127.0.0.1:1/", sha256=sha256)
    return files.read(folder)


def test_gzipped_and_plain_files(idx_files: Files, write_idx: Write) -> None:
    folder = write_idx(idx_files)
    zipped = read(folder)
    assert zipped.train_images.shape == (30, 28, 28, 1)
    assert zipped.test_images.shape == (20, 28, 28, 1)
    assert zipped.train_images.tobytes() == idx_files[TRAIN_IMAGES][16:]
    assert zipped.test_labels.tobytes() == idx_files[TEST_LABELS][8:]
    for name, content in idx_files.items():
        (folder / f"{name}.gz").unlink()
        (folder / name).write_bytes(content)
    for a, b in zip(zipped, read(folder), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.dataset.source_dir is .*nowhere.*: no such folder"):
        read(tmp_path / "nowhere")


def test_missing_file(idx_files: Files, write_idx: Write) -> None:
    del idx_files[TEST_LABELS]
    with pytest.raises(
        UserError, match=r"t10k-labels-idx1-ubyte \(or .*\.gz\) is missing in config.dataset.source_dir"
    ):
        read(write_idx(idx_files))


NAMES = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS]
KAGGLE = [name.replace("-idx", ".idx") for name in NAMES]


@pytest.mark.parametrize(
    "names",
    [
        KAGGLE,
        [f"MNIST/raw/{name}" for name in NAMES],
        [f"{name}/{name}" for name in NAMES],
        [f"archive/{folder}/{name}" for folder, name in zip(NAMES, KAGGLE, strict=True)],
        [f"gzip/emnist-digits-{name.replace('t10k', 'test')}.gz" for name in NAMES],
        [f"{name.upper()}.GZ" for name in NAMES],
    ],
    ids=lambda names: names[2],
)
def test_names_that_the_files_have_elsewhere(idx_files: Files, tmp_path: Path, names: list[str]) -> None:
    for name, original in zip(names, NAMES, strict=True):
        content = idx_files[original]
        write(tmp_path / name, gzip.compress(content) if name.lower().endswith(".gz") else content)
    arrays = read(tmp_path)
    assert arrays.train_images.tobytes() == idx_files[TRAIN_IMAGES][16:]
    assert arrays.test_labels.tobytes() == idx_files[TEST_LABELS][8:]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_the_nearest_files_of_the_usual_names_are_read(idx_files: Files, write_idx: Write) -> None:
    folder = write_idx(idx_files)
    for name in NAMES:  # as Kaggle and EMNIST distribute them
        for other in (f"{name}/{name}", f"emnist-letters-{name}", f".{name}"):
            write(folder / other, b"another")
    assert read(folder).train_images.tobytes() == idx_files[TRAIN_IMAGES][16:]


@pytest.mark.parametrize("names", [("MNIST/raw/{}", "FashionMNIST/raw/{}"), ("emnist-digits-{}", "emnist-letters-{}")])
def test_two_data_sets_in_one_folder_are_refused(idx_files: Files, tmp_path: Path, names: tuple[str, str]) -> None:
    for name, content in idx_files.items():
        for pattern in names:
            write(tmp_path / pattern.format(name), content)
    with pytest.raises(UserError, match=r"has .*train-im.* and .*train-im.*: expected the folder of one data set"):
        read(tmp_path)


def test_files_of_two_data_sets_are_not_mixed(idx_files: Files, tmp_path: Path) -> None:
    for name, content in idx_files.items():
        write(tmp_path / ("a" if "train" in name else "b") / name, content)
    with pytest.raises(
        UserError, match=r"t10k-images-idx3-ubyte \(or .gz\) is missing in .* holds a/train-images-idx3"
    ):
        read(tmp_path)


def test_the_message_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte \(or .gz\) is missing in .*, which holds no files$"):
        read(tmp_path)
    for i in range(7):
        write(tmp_path / f"deep/{i}.png", b"")
    with pytest.raises(UserError, match=r", which holds deep/0.png, deep/1.png, .*deep/4.png, \.\.\.$"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [1_000, 9])
def test_truncated_gzip(idx_files: Files, write_idx: Write, keep: int) -> None:
    folder = write_idx(idx_files)
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz cannot be unpacked \(.*truncated or damaged"):
        read(folder)


def test_damaged_gzip(idx_files: Files, write_idx: Write) -> None:
    folder = write_idx(idx_files)
    path = folder / f"{TRAIN_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz cannot be unpacked"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><p>Not found", r"neither gzip nor IDX \(magic number 0x3c21444f\)"),
        (b"", r"neither gzip nor IDX"),
        (b"\x00\x00\x08\x03\x00\x00", r"ends within its header \(6 bytes\)"),
        (b"\x00\x00\x0d\x03" + bytes(12), r"an IDX file of 32-bit float values in 3 dimensions \(.* 0x00000d03\)"),
        (b"\x00\x00\x0c\x01" + bytes(12), r"32-bit values in 1 .*: expected an IDX file of images, 8-bit values in 3"),
        (idx_bytes(np.zeros((1, 28, 28, 1), np.uint8)), r"an IDX file of 8-bit values in 4 dimensions"),
        (idx_bytes(np.zeros((30, 28, 28), np.uint8))[:-1], r"holds 23,535 bytes unpacked: its header announces 23,536"),
        (idx_bytes(np.zeros((30, 28, 28), np.uint8)) + b"x", r"holds 23,537 bytes unpacked"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, r"its header announces 79,"),
    ],
)  # fmt: skip
def test_not_what_its_name_says(idx_files: Files, write_idx: Write, content: bytes, message: str) -> None:
    folder = write_idx(idx_files)
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(content)
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte.gz .*{message}"):
        read(folder)


def test_swapped_images_and_labels(idx_files: Files, write_idx: Write) -> None:
    idx_files[TRAIN_IMAGES], idx_files[TRAIN_LABELS] = idx_files[TRAIN_LABELS], idx_files[TRAIN_IMAGES]
    with pytest.raises(UserError, match=r"train-images.* is an IDX file of labels .*expected an IDX file of images"):
        read(write_idx(idx_files))


def test_swapped_train_and_test(idx_files: Files, write_idx: Write) -> None:
    idx_files[TRAIN_LABELS], idx_files[TEST_LABELS] = idx_files[TEST_LABELS], idx_files[TRAIN_LABELS]
    with pytest.raises(UserError, match=r"train-images.* holds 30 images but train-labels.* 20 labels"):
        read(write_idx(idx_files))


def test_label_out_of_range(idx_files: Files, write_idx: Write) -> None:
    idx_files[TEST_LABELS] = idx_bytes(np.full(20, 10, np.uint8))
    with pytest.raises(UserError, match=r"t10k-labels.* holds the label 10: expected 0 to 9"):
        read(write_idx(idx_files))


def test_no_images(idx_files: Files, write_idx: Write) -> None:
    idx_files[TEST_IMAGES] = idx_bytes(np.zeros((0, 28, 28), np.uint8))
    idx_files[TEST_LABELS] = idx_bytes(np.zeros(0, np.uint8))
    with pytest.raises(UserError, match=r"t10k-images.* holds no images"):
        read(write_idx(idx_files))


def test_other_content_than_the_known_one(idx_files: Files, write_idx: Write) -> None:
    folder = write_idx(idx_files)
    known = {"train_images": hashlib.sha256(idx_files[TRAIN_IMAGES]).hexdigest()}
    read(folder, **known)
    with pytest.raises(UserError, match=r"t10k-images.* is not the original .*SHA-256 .*expected 000000000000"):
        read(folder, **known, test_images="0" * 64)


def test_other_file_than_the_distributed_one(idx_files: Files, write_idx: Write) -> None:
    folder = write_idx(idx_files)
    path = folder / f"{TRAIN_IMAGES}.gz"
    known = {"train_images": hashlib.sha256(path.read_bytes()).hexdigest()}

    def read_it() -> None:
        files = idx.IdxFiles(url="http://127.0.0.1:1/", gzip_sha256=known)
        files.read(folder)

    read_it()
    path.write_bytes(gzip.compress(idx_files[TRAIN_IMAGES], compresslevel=1))
    with pytest.raises(UserError, match=r"is not the original .*SHA-256 of the gzipped file is"):
        read_it()
    path.unlink()
    (folder / TRAIN_IMAGES).write_bytes(idx_files[TRAIN_IMAGES])  # unpacked, there is nothing to compare it with
    read_it()


class Server(ThreadingHTTPServer):
    files: dict[str, bytes]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(idx_files: Files) -> Iterator[Server]:
    """Serves the IDX files on this machine, as the real address does."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files = {f"/{name}.gz": gzip.compress(content) for name, content in idx_files.items()}
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def download(server: Server, **sha256: str) -> Arrays:
    files = idx.IdxFiles(url=f"http://127.0.0.1:{server.server_port}/", sha256=sha256)
    return files.read(None)


def test_download(server: Server, idx_files: Files) -> None:
    arrays = download(server)
    assert arrays.train_images.tobytes() == idx_files[TRAIN_IMAGES][16:]
    assert arrays.test_labels.tobytes() == idx_files[TEST_LABELS][8:]


def test_download_of_a_file_that_is_not_there(server: Server) -> None:
    del server.files[f"/{TRAIN_IMAGES}.gz"]
    with pytest.raises(UserError, match=r"the download of http://127.*:\d+/train-images-idx3-ubyte.gz failed: .*404"):
        download(server)


def test_download_of_other_content(server: Server) -> None:
    with pytest.raises(UserError, match=r"is not the original train-images-idx3-ubyte"):
        download(server, train_images="0" * 64)


def test_nobody_listens() -> None:
    files = idx.IdxFiles(url="http://127.0.0.1:1/")
    with pytest.raises(UserError, match=r"http://127.0.0.1:1/train-images.* cannot be reached \(.*refused"):
        files.read(None)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        files = idx.IdxFiles(url=f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UserError, match=r"cannot be reached \((timed out|no answer in 0.3 s)\)"):
            files.read(None)
