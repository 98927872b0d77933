#!/usr/bin/env bash
# sbatch docs/slurm.sh   (one process per node, found by SLURM's variables; requeues itself at its time limit)
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=60 --signal=USR1@60 --requeue --open-mode=append
srun .venv/bin/python -m digits_jax.main --config=bn_dropout --workdir=runs/slurm
[ $? -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
