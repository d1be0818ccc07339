#!/bin/bash
# One search by eight workers of a SLURM cluster, which need no shared folder but for this file, the
# script and study.yaml. The database's address has a password, so it is in the environment, which
# sbatch passes on, and in no argument, which everybody on a node can see:
#
#   read -rs LIBMTL_RECON_STORAGE && export LIBMTL_RECON_STORAGE
#   sbatch slurm_array.sh
#
# with e.g. postgresql+psycopg://me:PASSWORD@db.example.org/studies. More workers may join at any
# time by another sbatch; one that is killed costs the run that it was in.
#SBATCH --job-name=rings
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --output=worker-%a.log
#SBATCH --open-mode=append
# A worker is told to end before its time is over, and gives back what it was at. B: is the shell,
# in whose place the worker runs.
#SBATCH --signal=B:TERM@120

set -euo pipefail
: "${LIBMTL_RECON_STORAGE:?is the address of the database, see the first lines of this file}"
cd "$SLURM_SUBMIT_DIR"
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"

# Each worker has a folder of its own, for what it is at and for its report.
exec libmtl-recon search study.yaml --out "runs/worker-$SLURM_ARRAY_TASK_ID"
