"""`./launch.sh tpu` with real training on an emulated pod of two hosts with two processes each."""

import json
from pathlib import Path

import pytest

from tests import emulated_pod
from tests.chaos.workdir import outcome


@pytest.mark.slow
def test_a_killed_process_and_a_preempted_host_change_no_bit(data_dir: Path, tmp_path: Path) -> None:
    if reason := emulated_pod.why_not():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as monkeypatch, emulated_pod.create_pod() as pod:
        monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
        emulated_pod.train_undisturbed(pod)
        output = emulated_pod.train_disturbed(pod)
        assert "training ended with exit code 137: attempt 2 of 30" in output
        assert "it is PREEMPTED: attempt 3 of 30" in output
        assert output.count("resuming from step") == 2
        runs = [emulated_pod.download(pod, name, tmp_path) for name in ("undisturbed", "disturbed")]
    assert len(json.loads((runs[1] / "run.json").read_text())["devices"]) == 4
    assert outcome(runs[0]) == outcome(runs[1])
