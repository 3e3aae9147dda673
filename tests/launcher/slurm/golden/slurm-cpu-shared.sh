#!/bin/bash
# Training run llama-8b: 4 nodes × 4 ranks.
# Written by `bigtrain launch`; the profile of the cluster determines every line.

#SBATCH --job-name=llama-8b
#SBATCH --partition=cpu
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=04:00:00

# The run saves when this signal comes, before the time limit.
#SBATCH --signal=B:USR2@120
# After the time limit, a preemption or the loss of nodes the run continues.
#SBATCH --requeue
# A node that fails does not end the job: spare nodes replace it, or the run restarts.
#SBATCH --no-kill
#SBATCH --chdir=/shared/work
#SBATCH --output=/shared/runs/llama-8b/logs/slurm-%j.out
#SBATCH --open-mode=append

# The signal may come before the supervisor can handle it; it must not end this shell.
trap '' USR2
# Options for srun that an interactive allocation may have left in the environment.
unset SLURM_CPU_BIND SLURM_CPU_BIND_LIST SLURM_CPU_BIND_TYPE SLURM_CPU_BIND_VERBOSE SLURM_MEM_BIND
unset SLURM_MEM_BIND_LIST SLURM_MEM_BIND_TYPE SLURM_GPU_BIND SLURM_GPUS_PER_TASK
unset SLURM_NTASKS_PER_GPU SLURM_TRES_PER_TASK SLURM_DISTRIBUTION SLURM_HINT SLURM_EXPORT_ENV
unset SLURM_MPI_TYPE SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU
# Since SLURM 22.05 srun takes --cpus-per-task only from this variable.
export SRUN_CPUS_PER_TASK=4

# The supervisor starts the ranks with srun, watches them, and restarts them.
exec /shared/env/bin/python -m bigtrain.cli supervise /shared/runs/llama-8b
