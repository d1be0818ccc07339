#!/bin/bash
# Two workers of one search on this machine, which share a PostgreSQL database alone. Install the
# driver by `pip install 'libmtl-recon[postgres]'`. The database's address has a password, so it is
# in the environment and in no argument:
#
#   read -rs LIBMTL_RECON_STORAGE && export LIBMTL_RECON_STORAGE
#   bash postgres.sh
#
# with e.g. postgresql+psycopg://me:PASSWORD@localhost/studies. Arguments go to both workers, e.g.
# `--trials 40`. The same command resumes the search; further workers may join on other machines.
set -euo pipefail
: "${LIBMTL_RECON_STORAGE:?is the address of the database, see the first lines of this file}"
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_NUM_THREADS=1

workers=()
for number in 1 2; do
  libmtl-recon search study.yaml --out "runs/worker-$number" "$@" &
  workers+=($!)
done
failed=0
for worker in "${workers[@]}"; do
  wait "$worker" || failed=1
done
[ "$failed" = 0 ] || exit 1
libmtl-recon search study.yaml --out runs/report --report
