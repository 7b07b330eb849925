#!/bin/sh
# Workers as an array job of Slurm; the client is a DetachedExecutor(launcher="none", store="s3://…") on the login node.
#
#   sbatch --export=ALL,URL='s3://bucket/team/<id>?region=eu-west-1' slurm.sh
#
# The key file is in the home directory that all machines share; otherwise export STARBURST_KEY first. Before its time limit
# Slurm sends SIGTERM: what does not finish in time runs again on another worker.
#SBATCH --job-name=starburst
#SBATCH --array=1-20
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
exec "${PYTHON:-python3}" -m starburst_executor.worker "$URL" --slots "$SLURM_CPUS_PER_TASK"
