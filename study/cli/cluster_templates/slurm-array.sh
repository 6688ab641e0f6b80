#!/bin/bash
# Slurm, an array of jobs that know nothing of each other, without Ray: bash slurm-array.sh STUDY [OPTION...]
#
#SBATCH --job-name=dh2l-study
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#
# On a login node it submits itself twice. Each job of the first array trains a fixed share of the trials to their end.
# The second array begins when the first has ended: it trains what `confirm` waits for, and again what failed. A job of
# the first ends with exit code 3 where the trials of other jobs have to be done before the study can choose.
# Submit it from a folder that every node sees, or let DH2L_RESULTS and DH2L_DATA name such; prepare data sets first.
# Afterwards, `dh2l-study table STUDY` has the table and `dh2l-study mlflow sync STUDY` the view. The array begins at 1.
set -eo pipefail
modules=${DH2L_MODULES-} # what the cluster has to load, such as "python/3.12 cuda/12.8"
venv=${DH2L_VENV-}       # the virtual environment that has dh2l-study; empty where PATH has it

if (($# < 1)); then
    echo "usage: bash $0 STUDY [OPTION...], where the options are those of dh2l-study run" >&2
    exit 2
fi
if [[ -z ${SLURM_ARRAY_TASK_ID-} ]]; then
    first=$(sbatch --parsable "$0" "$@")
    second=$(sbatch --parsable --dependency="afterany:${first%%;*}" "$0" "$@")
    echo "submitted the arrays ${first%%;*}, and ${second%%;*} after it"
    exit
fi

# shellcheck disable=SC2086 # the names of modules are words
[[ -z $modules ]] || module load $modules
# shellcheck disable=SC1091 # it is on the cluster
[[ -z $venv ]] || source "$venv/bin/activate"
set -u
study=$1
shift

exec dh2l-study run "$study" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --cpus-per-trial "${SLURM_CPUS_PER_TASK:-1}" "$@"
