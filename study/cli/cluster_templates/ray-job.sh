#!/bin/bash
# A job of an existing Ray cluster, whose driver runs there: bash ray-job.sh STUDY http://HOST:8265 [OPTION...]
#
# The cluster needs ray[default], for its dashboard takes jobs. A job has a working folder of its own, so STUDY is a
# shipped name or an absolute path, and DH2L_RESULTS and DH2L_DATA are absolute, on folders that every node sees; the
# results may lie in an object store. A cluster that asks for a token: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH.
set -euo pipefail
if (($# < 2)); then
    echo "usage: bash $0 STUDY http://HOST:8265 [OPTION...], where the options are those of dh2l-study run" >&2
    exit 2
fi
for name in DH2L_RESULTS DH2L_DATA; do
    if [[ -z ${!name-} ]]; then
        echo "error: $name is not set; expected a path that every node sees. Run: export $name=/PATH" >&2
        exit 2
    fi
done
study=$1 dashboard=$2
shift 2

words=(dh2l-study run "$study" --address auto --results "$DH2L_RESULTS" --data "$DH2L_DATA" "$@")
for word in "${words[@]}"; do # a shell of the cluster reads them again, and Ray does not quote them for it
    if [[ $word == *[!A-Za-z0-9_./:=,+@%~-]* ]]; then
        echo "error: '$word' cannot be sent to a job: letters, digits and _./:=,+@%~- can" >&2
        exit 2
    fi
done
exec ray job submit --address "$dashboard" -- "${words[@]}"
