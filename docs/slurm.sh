#!/usr/bin/env bash
# sbatch docs/slurm.sh [FLAGS OF TRAINING]
# One process per node, found by SLURM's variables. The job requeues itself at its time limit.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=60 --signal=USR1@60 --requeue --open-mode=append
srun .venv/bin/python -m digits_jax.main "${@:---config=bn_dropout}"
status=$?
if [ $status -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi # interrupted, and saved
exit $status
