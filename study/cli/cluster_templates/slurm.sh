#!/bin/bash
# Slurm, one job that brings up Ray on its nodes: sbatch slurm.sh STUDY [OPTION...]
#
#SBATCH --job-name=dh2l-study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@600
#
# Submit it from a folder that every node sees, or let DH2L_RESULTS and DH2L_DATA name such. Ten minutes before its time
# is up, every trial stops at the end of its epoch; the same command goes on from there.
set -eo pipefail
modules=${DH2L_MODULES-} # what the cluster has to load, such as "python/3.12 cuda/12.8"
venv=${DH2L_VENV-}       # the virtual environment that has dh2l-study; empty where PATH has it

if (($# < 1)); then
    echo "usage: sbatch $(basename "$0") STUDY [OPTION...], where the options are those of dh2l-study run" >&2
    exit 2
fi
if [[ -z ${SLURM_JOB_ID-} ]]; then
    echo "error: this is a batch script of Slurm. Run: sbatch $0 $*" >&2
    exit 2
fi

# shellcheck disable=SC2086 # the names of modules are words
[[ -z $modules ]] || module load $modules
# shellcheck disable=SC1091 # it is on the cluster
[[ -z $venv ]] || source "$venv/bin/activate"
set -u
study=$1
shift

cpus=${SLURM_CPUS_PER_TASK:-1} gpus=${SLURM_GPUS_ON_NODE:-0} nodes=$SLURM_JOB_NUM_NODES
head=$(hostname -I | cut -d ' ' -f 1) # this script runs on the first node
address=$head:$((20000 + SLURM_JOB_ID % 10000))

# Who has no token cannot run code on the cluster; this user alone can read it.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID RAY_USAGE_STATS_ENABLED=0
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

common=(--block --num-cpus="$cpus" --num-gpus="$gpus" --temp-dir="/tmp/ray-$SLURM_JOB_ID")
ray start --head --node-ip-address="$head" --port="${address##*:}" --include-dashboard=false "${common[@]}" &
pids+=($!)
if ((nodes > 1)); then
    # shellcheck disable=SC2016 # the words are for each node's own shell
    srun --relative=1 --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --cpus-per-task="$cpus" bash -c \
        'exec ray start --address="$0" --node-ip-address="$(hostname -I | cut -d " " -f 1)" "$@"' \
        "$address" "${common[@]}" &
    pids+=($!)
fi

dh2l-study doctor "$study" --address "$address" --nodes "$nodes" --no-mlflow # a run goes on without its store
dh2l-study run "$study" --address "$address" "$@" &
run=$!
trap 'kill -TERM "$run"' TERM
status=0
wait "$run" || status=$?
while kill -0 "$run" 2>/dev/null; do # the signal ended the first wait, not the run
    status=0
    wait "$run" || status=$?
done
exit "$status"
