#!/usr/bin/env bash
# Sets up and runs digits_jax; see ./launch.sh --help.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here"

usage() {
  cat <<'EOF'
Usage: ./launch.sh [train] [FLAGS]   train; without flags configs/bn_dropout.py on MNIST
       ./launch.sh test [ARGS]       run the tests; ARGS go to pytest
       ./launch.sh tpu OPTIONS -- FLAGS   train on a Cloud TPU and delete it again (./launch.sh tpu --help)
       ./launch.sh setup [EXTRA...]  only install, with the given extras (test, dev, benchmark, notebook, wandb, cuda, tpu)
       ./launch.sh --help            install, then show this and the flags of training

Each of them first makes .venv, with uv where it is installed, else with python3 (3.11 or newer).

  ./launch.sh --config=configs/vgg.py --config.seed=1
  ./launch.sh --config.dataset.source_dir=FOLDER     MNIST from a folder with its four IDX files
  ./launch.sh --config.dataset.name=optical_digits   1,797 small digits that need no network
EOF
}

# setup [EXTRA...]: makes .venv and installs the project with the extras, once per change of what it depends on.
setup() {
  local extras stamp wanted
  extras="$(printf '%s\n' "$@" | sort -u | paste -sd, -)"
  stamp=".venv/.installed-${extras:-core}"
  wanted="$(cat pyproject.toml constraints.txt)"
  if [[ -x .venv/bin/python && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    return
  fi
  echo "installing into .venv (a minute or two, once)" >&2
  if command -v uv >/dev/null; then
    [[ -x .venv/bin/python ]] || uv venv --quiet --python '>=3.11' .venv
    uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".${extras:+[$extras]}"
  else
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "error: python3 is $(python3 --version 2>&1): expected 3.11 or newer (or install uv)" >&2
      exit 1
    fi
    [[ -x .venv/bin/python ]] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --quiet --constraint constraints.txt --editable ".${extras:+[$extras]}"
  fi
  printf '%s\n' "$wanted" >"$stamp"
  echo "installed; for commands without ./launch.sh: source .venv/bin/activate" >&2
}

train() {
  local arguments=("$@") given=" $*"
  if [[ "$given" != *" --config="* ]]; then
    arguments=(--config=configs/bn_dropout.py "${arguments[@]}")
    # A data set that was asked for is never replaced; the default one is where it cannot be had.
    if [[ "$given" != *" --config.dataset."* ]] && ! reason="$(.venv/bin/python -m digits_jax.prepare --name=mnist 2>&1)"; then
      if [[ "$reason" != *"cannot be reached"* ]]; then
        echo "$reason" >&2
        exit 1
      fi
      echo "MNIST is neither prepared here nor reachable, so this trains on optical_digits, 1,797 real 8x8 digits that ship" \
        "with scikit-learn (MNIST from a folder: --config.dataset.source_dir=FOLDER)."
      arguments+=(--config.dataset.name=optical_digits)
    fi
  fi
  exec .venv/bin/python -m digits_jax.main "${arguments[@]}"
}

tpu_usage() {
  cat <<'EOF'
Usage: ./launch.sh tpu --name=NAME --zone=ZONE --type=TYPE --bucket=gs://BUCKET [OPTIONS] [-- FLAGS]

Creates a TPU (v2 to v6e), copies this commit to all of its workers, installs, trains on all of them, copies the runs to
the bucket and deletes the TPU, also where training failed. Needs gcloud, logged in and with a project.

  --version=VERSION   of its software; default tpu-ubuntu2204-base
  --spot              cheaper, and taken away at any time; the same command goes on from the bucket
  --queued            waits in Google's queue for it
  --keep              does not delete it
  --dry_run           prints the commands and runs none

  ./launch.sh tpu --name=digits --zone=us-central2-b --type=v4-8 --bucket=gs://mine --dry_run -- --config=configs/vgg.py
EOF
}

tpu() {
  local name="" zone="" type="" bucket="" version=tpu-ubuntu2204-base spot="" queued="" keep="" dry="" status=0 option
  while (($#)); do
    case "$1" in
      --name=* | --zone=* | --type=* | --bucket=* | --version=*) option="${1%%=*}"; printf -v "${option#--}" %s "${1#*=}" ;;
      --spot | --queued | --keep) printf -v "${1#--}" %s "$1" ;;
      --dry_run) dry=1 ;;
      --help) tpu_usage; return ;;
      --) shift; break ;;
      *) echo "error: unknown option '$1' of tpu (./launch.sh tpu --help)" >&2; exit 2 ;;
    esac
    shift
  done
  for option in name zone type bucket; do
    if [[ -z "${!option}" ]]; then echo "error: --$option is missing (./launch.sh tpu --help)" >&2; exit 2; fi
  done
  if (($# == 0)); then set -- --config=configs/bn_dropout.py; fi

  run() { if [[ $dry ]]; then echo "$(printf '%q ' "$@")"; else "$@"; fi; }
  on() { run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"; }
  local archive=/tmp/digits_jax.tar.gz flags; flags="$(printf '%q ' "$@")"

  if [[ $queued ]]; then
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
      --accelerator-type="$type" --runtime-version="$version" $spot
    run gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)'
  else
    run gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" $spot
  fi
  run git archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$name:digits_jax.tar.gz" --zone="$zone" --worker=all
  on all "mkdir -p digits_jax && tar xzf digits_jax.tar.gz -C digits_jax && digits_jax/launch.sh setup tpu"
  on 0 "mkdir -p digits_jax/runs && gcloud storage rsync -r $bucket/$name digits_jax/runs" || true
  on all "cd digits_jax && .venv/bin/python -m digits_jax.main $flags" || status=$?
  on 0 "gcloud storage rsync -r digits_jax/runs $bucket/$name" || status=$?
  if [[ ! $keep ]]; then
    if [[ $queued ]]; then
      run gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
    else
      run gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --quiet
    fi
  fi
  return "$status"
}

case "${1:-train}" in
  -h | --help)
    setup
    usage
    echo
    .venv/bin/python -m digits_jax.main --help || true # absl's help exits with 1
    ;;
  setup)
    shift
    setup "$@"
    ;;
  test)
    shift
    setup test
    exec .venv/bin/python -m pytest "$@"
    ;;
  tpu)
    shift
    tpu "$@"
    ;;
  train | -*)
    if [[ "${1:-}" == train ]]; then shift; fi
    setup
    train "$@"
    ;;
  *)
    echo "error: unknown command '$1': expected train, test or setup (./launch.sh --help)" >&2
    exit 2
    ;;
esac
