#!/usr/bin/env bash
# Sets up and runs digits_jax; see ./launch.sh --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here"

usage() {
  cat <<'EOF'
Usage: ./launch.sh [train] [FLAGS]   train; without flags, bn_dropout on MNIST
       ./launch.sh test [ARGS]       run the tests; ARGS go to pytest
       ./launch.sh tpu OPTIONS       train on a Cloud TPU (see ./launch.sh tpu --help)
       ./launch.sh setup [EXTRA...]  only install, with more extras: benchmark, cuda, demo, dev, export, gcs, notebook,
                                     ray, s3, search, test, tpu, wandb
       ./launch.sh --help            install, then show this help and the flags of training

Each command first installs the project into .venv, with uv if available, else with python3 (3.11 or newer).

  ./launch.sh --config=vgg --config.seed=1
  ./launch.sh --config.dataset.source_dir=FOLDER     MNIST from a folder with its four IDX files
  ./launch.sh --config.dataset.name=optical_digits   1,797 small digits; needs no network
EOF
}

# setup [EXTRA...]: creates .venv and installs the project with the extras, again whenever its dependencies change.
setup() {
  local extras stamp wanted
  extras="$(printf '%s\n' apps studies tensorboard "$@" | sort -u | paste -sd, -)"
  stamp=".venv/.installed-$extras"
  wanted="$(cat pyproject.toml constraints.txt)"
  if [[ -x .venv/bin/python && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    return
  fi
  echo "installing into .venv (a minute or two, once)" >&2
  if command -v uv >/dev/null; then
    [[ -x .venv/bin/python ]] || uv venv --quiet --python '>=3.11' .venv
    uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[$extras]"
  else
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "error: python3 is $(python3 --version 2>&1): expected 3.11 or newer (or install uv)" >&2
      exit 1
    fi
    [[ -x .venv/bin/python ]] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --quiet --constraint constraints.txt --editable ".[$extras]"
  fi
  printf '%s\n' "$wanted" >"$stamp"
  echo "installed; to run commands without ./launch.sh: source .venv/bin/activate" >&2
}

train() {
  local arguments=() given reason
  while (($#)); do
    if [[ "$1" == --config && $# -gt 1 ]]; then set -- "--config=$2" "${@:3}"; fi
    arguments+=("$1")
    shift
  done
  given=" ${arguments[*]-}"
  if [[ "$given" != *" --config="* ]]; then
    arguments=(--config=bn_dropout ${arguments[@]+"${arguments[@]}"})
    # Only the default data set is replaced if it is unavailable, never one that was asked for.
    if [[ "$given" != *" --config.dataset."* ]] && ! reason="$(.venv/bin/python -m digits_jax.data --name=mnist 2>&1)"; then
      if [[ "$reason" != *"cannot be reached"* ]]; then
        echo "$reason" >&2
        exit 1
      fi
      echo "MNIST is not prepared here and cannot be downloaded: training on optical_digits instead, 1,797 real 8x8 digits" \
        "that ship with scikit-learn (for MNIST from a folder: --config.dataset.source_dir=FOLDER)."
      arguments+=(--config.dataset.name=optical_digits)
    fi
  fi
  exec .venv/bin/python -m digits_jax.main "${arguments[@]}"
}

tpu_usage() {
  cat <<'EOF'
Usage: ./launch.sh tpu --name=NAME --zone=ZONE --type=TYPE --bucket=gs://BUCKET [OPTIONS] [-- FLAGS OF TRAINING]

Creates a Cloud TPU, copies this commit to all of its workers, trains on all of them with gs://BUCKET/NAME as the
workdir, and deletes the TPU, also if training fails. Requires gcloud with a project; see docs/devices.md.

  --spot              cheaper, and preempted at any time: the same command resumes from the bucket
  --queued            wait in Google's queue until a TPU is available
  --version=VERSION   of the TPU software; default tpu-ubuntu2204-base, for a v6e v2-alpha-tpuv6e
  --keep              do not delete the TPU
  --dry_run           print the commands without running them
EOF
}

run() { # prints a command and, unless this is a dry run, runs it
  for word; do
    if [[ "$word" =~ ^[A-Za-z0-9_=./:@-]+$ ]]; then printf '%s ' "$word"; else printf '%s ' "${word@Q}"; fi
  done
  echo
  if [[ ! $dry_run ]]; then "$@"; fi
}

tpu() {
  name="" zone="" type="" bucket="" version=tpu-ubuntu2204-base spot="" queued="" keep="" dry_run=""
  for option; do
    shift
    case "$option" in
      --help) tpu_usage; exit ;;
      --) break ;;
      --name=* | --zone=* | --type=* | --bucket=gs://* | --version=*)
        option="${option#--}" && printf -v "${option%%=*}" %s "${option#*=}" ;;
      --spot | --queued | --keep | --dry_run) printf -v "${option#--}" %s "$option" ;;
      *) echo "error: '$option': expected options as in ./launch.sh tpu --help, then -- and training's" >&2; exit 2 ;;
    esac
  done
  for option in name zone type bucket; do
    if [[ -z "${!option}" ]]; then echo "error: --$option is missing (./launch.sh tpu --help)" >&2; exit 2; fi
  done
  if (($# == 0)); then set -- --config=bn_dropout; fi
  vm="gcloud compute tpus tpu-vm" queue="gcloud compute tpus queued-resources" bundle="${TMPDIR:-/tmp}/digits_jax.bundle"

  run git bundle create --quiet "$bundle" HEAD
  if [[ $queued ]]; then
    delete="$queue delete $name --zone=$zone --force --quiet"
    run $queue create "$name" --node-id="$name" --zone="$zone" --accelerator-type="$type" --runtime-version="$version" $spot
  else
    delete="$vm delete $name --zone=$zone --quiet"
    run $vm create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" $spot
  fi
  if [[ ! $keep ]]; then trap 'run $delete' EXIT; fi
  while [[ $queued ]]; do # until the TPU is ready
    state="$(run $queue describe "$name" --zone="$zone" '--format=value(state.state)')"
    echo "$state"
    if [[ $dry_run || "$state" == *ACTIVE ]]; then break; fi
    if [[ "$state" == *FAILED || "$state" == *SUSPENDED ]]; then exit 1; fi
    sleep 30
  done
  run $vm scp "$bundle" "$name:digits_jax.bundle" --zone="$zone" --worker=all
  # uv installs a Python that is new enough.
  run $vm ssh "$name" --zone="$zone" --worker=all --command="rm -rf digits_jax && git clone --quiet digits_jax.bundle \
digits_jax && python3 -m pip install --quiet --user uv && PATH=~/.local/bin:\$PATH digits_jax/launch.sh setup tpu"
  run $vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd digits_jax && .venv/bin/python -m digits_jax.main --workdir=$bucket/$name ${*@Q}"
}

case "${1:-train}" in
  -h | --help)
    setup
    usage
    echo
    .venv/bin/python -m digits_jax.main --help || true # absl's help exits with 1
    ;;
  setup) setup "${@:2}" ;;
  test) setup test; exec .venv/bin/python -m pytest --numprocesses=auto --dist=worksteal "${@:2}" ;;
  tpu) tpu "${@:2}" ;;
  train) setup; train "${@:2}" ;;
  -*) setup; train "$@" ;;
  *) echo "error: unknown command '$1': expected train, test, tpu or setup (./launch.sh --help)" >&2; exit 2 ;;
esac
