#!/bin/bash
# Slurm, an array of jobs that know nothing of each other, without Ray: sbatch slurm-array.sh STUDY
#
#SBATCH --job-name=dh2l-study
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@60
#
# Each job trains a fixed share of the trials to their end. Submit it from a folder that every node sees, or let
# DH2L_RESULTS and DH2L_DATA name such; prepare data sets first. Afterwards, `dh2l-study table STUDY` has the table and
# `dh2l-study mlflow sync STUDY` the view. The array begins at 1.
set -euo pipefail
study=$1
shift

exec dh2l-study run "$study" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --cpus-per-trial "${SLURM_CPUS_PER_TASK:-1}" "$@"
