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
       ./launch.sh setup [EXTRA...]  only install, with more extras: benchmark, cuda, demo, dev, export, gcs, heic,
                                     notebook, ray, s3, search, test, tpu, wandb
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

case "${1:-train}" in
  -h | --help)
    setup
    usage
    echo
    .venv/bin/python -m digits_jax.main --help || true # absl's help exits with 1
    ;;
  setup) setup "${@:2}" ;;
  test) setup test; exec .venv/bin/python -m pytest --numprocesses=auto --dist=worksteal "${@:2}" ;;
  tpu) setup; exec .venv/bin/python -m digits_jax.apps.tpu "${@:2}" ;;
  train) setup; train "${@:2}" ;;
  -*) setup; train "$@" ;;
  *) echo "error: unknown command '$1': expected train, test, tpu or setup (./launch.sh --help)" >&2; exit 2 ;;
esac
