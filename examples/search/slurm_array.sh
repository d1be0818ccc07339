#!/bin/bash
# One search by eight workers on a SLURM cluster. They share a database, and no folder except the one
# with this file, the script and study.yaml. The database's address contains a password. It is passed
# in the environment, which sbatch passes on; arguments are visible to everybody on a node:
#
#   read -rs LIBMTL_RECON_STORAGE && export LIBMTL_RECON_STORAGE
#   sbatch slurm_array.sh
#
# The address is, for example, postgresql+psycopg://me:PASSWORD@db.example.org/studies. Another sbatch
# adds workers at any time. If a worker is killed, only the run that it was training is lost.
#SBATCH --job-name=rings
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --output=worker-%a.log
#SBATCH --open-mode=append
# Before its time is over, a worker gets SIGTERM, and releases its run for other workers. B: sends the
# signal to the shell, which the worker replaces (exec).
#SBATCH --signal=B:TERM@120

set -euo pipefail
: "${LIBMTL_RECON_STORAGE:?is the address of the database, see the first lines of this file}"
cd "$SLURM_SUBMIT_DIR"
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"

# Each worker has a separate folder, for its runs and for its report.
exec libmtl-recon search study.yaml --out "runs/worker-$SLURM_ARRAY_TASK_ID"
