"""The quick form: a few trials of each kind. `python -m tests.chaos` has the full one."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.trials import KINDS, NAMESPACE, Runs

pytestmark = pytest.mark.slow
COUNTS = {"SIGKILL": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Runs:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
        return Runs(tmp_path_factory.mktemp("chaos"))


# Those of two processes are in tests/test_distributed.py.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "two" not in kind for _ in range(COUNTS.get(kind, 1))])
def test_the_promise_is_kept(
    runs: Runs, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    if kind == "full disk" and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace, which this system does not give")
    seed = time.time()
    kept, where = KINDS[kind].run(runs, tmp_path / "run", random.Random(seed))
    assert kept, (seed, where)
