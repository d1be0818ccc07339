#!/bin/bash
# Two workers of one search on this machine, which share only a PostgreSQL database. Install the
# driver with `pip install 'libmtl-recon[postgres]'`. The database's address contains a password, so
# it is passed in the environment and not as an argument:
#
#   read -rs LIBMTL_RECON_STORAGE && export LIBMTL_RECON_STORAGE
#   bash postgres.sh
#
# The address is, for example, postgresql+psycopg://me:PASSWORD@localhost/studies. Arguments such as
# `--trials 40` are passed to both workers. The same command resumes the search; workers on other
# machines may join.
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
