#!/bin/bash
# An existing Ray cluster, from one of its nodes: bash address.sh STUDY HOST:PORT [OPTION...]
#
# DH2L_RESULTS and DH2L_DATA name folders that every node sees; the results may lie in an object store.
# A cluster that asks for a token: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH with the file of its token.
set -euo pipefail
if (($# < 2)); then
    echo "usage: bash $0 STUDY HOST:PORT [OPTION...], where the options are those of dh2l-study run" >&2
    exit 2
fi
study=$1 address=$2
shift 2

dh2l-study doctor "$study" --address "$address" --no-mlflow # a run goes on without its store
exec dh2l-study run "$study" --address "$address" "$@"
