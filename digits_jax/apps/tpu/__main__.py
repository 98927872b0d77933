"""Trains on a Cloud TPU: `./launch.sh tpu --name=NAME --zone=ZONE --type=TYPE --bucket=gs://BUCKET -- TRAINING'S FLAGS`

This creates the TPU, or uses the one of that name, copies the current commit to its workers, trains on them with
gs://BUCKET/NAME as the workdir, and deletes the TPU. After a preemption or a crash, training resumes from its last
checkpoint. Training does not depend on this machine: `./launch.sh tpu logs` follows it again, `stop` makes it save and
stop, and `delete` deletes the TPU, or its request; these take --name and --zone.
"""

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

from digits_jax import cli
from digits_jax.apps.tpu.launcher import judge, launch, pack
from digits_jax.apps.tpu.machine import Tpu, TryAgainError
from digits_jax.errors import ConfigError, UserError

NAME = flags.DEFINE_string("name", None, "the TPU's name")
ZONE = flags.DEFINE_string("zone", None, "Google Cloud zone, such as us-central2-b")
TYPE = flags.DEFINE_string("type", None, "accelerator type, such as v4-16")
BUCKET = flags.DEFINE_string("bucket", None, "gs://BUCKET or gs://BUCKET/DIR")
VERSION = flags.DEFINE_string("version", "tpu-ubuntu2204-base", "TPU software version; for a v6e v2-alpha-tpuv6e")
SPOT = flags.DEFINE_bool("spot", False, "cheaper, and preempted at any time")
QUEUED = flags.DEFINE_bool("queued", False, "wait in Google's queue until a TPU is available")
ATTEMPTS = flags.DEFINE_integer("attempts", 30, "how often to request a TPU or start training", lower_bound=1)
KEEP = flags.DEFINE_bool("keep", False, "do not delete the TPU at the end")
DIRTY = flags.DEFINE_bool("dirty", False, "copy uncommitted changes, too")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the commands of an undisturbed run without running them")

_REPOSITORY = Path(__file__).parents[3]
# Reports a mistake before anything costs money.
_PARSE_FLAGS = "from digits_jax import cli, main; cli.run(lambda argv: None)"


def main(argv: list[str], flags_of_training: list[str]) -> int:
    command = " ".join(argv[1:]) or "train"
    if command not in ("train", "logs", "stop", "delete"):
        raise ConfigError(f"{command!r} is unknown: expected train, logs, stop or delete; flags of training follow --")
    if not DRY_RUN.value and not shutil.which("gcloud"):
        raise UserError("gcloud is not installed: https://cloud.google.com/sdk/docs/install")
    tpu = Tpu(cli.required("name", "digits"), cli.required("zone", "us-central2-b"), queued=QUEUED.value)
    tpu.dry_run = DRY_RUN.value
    if command == "train":
        return _train(tpu, flags_of_training)
    if command == "delete":
        # A request that still waits would be granted later, and cost money.
        tpu.queued = tpu.queued or tpu.request_state() != ""
        tpu.delete()
        return 0
    return _follow(tpu, stop=command == "stop")


def _train(tpu: Tpu, flags_of_training: list[str]) -> int:
    tpu.type, tpu.version, tpu.spot = cli.required("type", "v4-16"), VERSION.value, SPOT.value
    bucket = cli.required("bucket", "gs://mine")
    if not bucket.startswith("gs://"):
        raise ConfigError(f"--bucket is {bucket!r}: expected gs://BUCKET")
    if exit_code := subprocess.run(
        [sys.executable, "-c", _PARSE_FLAGS, *flags_of_training], cwd=_REPOSITORY
    ).returncode:
        return exit_code
    flags_of_training = [f"--workdir={bucket.rstrip('/')}/{tpu.name}", *flags_of_training]
    with tempfile.TemporaryDirectory() as folder:
        code, files = pack(_REPOSITORY, Path(folder), dirty=DIRTY.value)
        return launch(tpu, code, files, flags_of_training, attempts=ATTEMPTS.value, keep=KEEP.value)


def _follow(tpu: Tpu, *, stop: bool) -> int:
    if not tpu.dry_run:
        if (state := tpu.state()) != "READY":
            raise UserError(f"{tpu.name} in {tpu.zone} is {state or 'not there'}: expected a TPU that is READY")
        if not any(worker.flags for worker in tpu.workers()):
            raise UserError(f"{tpu.name} has not trained yet")
    if stop:
        tpu.stop()
    try:
        return judge(tpu.follow())[0]
    except TryAgainError as error:
        raise UserError(f"{tpu.name}: {error}") from None


if __name__ == "__main__":
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    sys.argv, after = sys.argv[:end], sys.argv[end + 1 :]
    cli.run(functools.partial(main, flags_of_training=after or ["--config=bn_dropout"]), positional=True)
