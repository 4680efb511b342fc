#!/bin/bash
# One training run on several machines of a Slurm cluster. Copy it, change the marked lines, and from the project's folder:
#
#     sbatch launch/slurm.sh
#
# The project, its data and saved/ have to be on a disk that all machines see.

#SBATCH --job-name=seedbed
#SBATCH --nodes=2                  # <- machines
#SBATCH --gpus-per-node=4          # <- GPUs of each; a process for every one
#SBATCH --ntasks-per-node=1        # one torchrun a machine, which starts the processes
#SBATCH --cpus-per-task=32         # <- cores of each machine, for its processes and their loader workers
#SBATCH --time=24:00:00            # <- of one go; a run that takes longer continues in the next
#SBATCH --requeue                  # after a machine has failed, or a job that matters more took it, Slurm tries again
#SBATCH --open-mode=append         # one log for all goes
#SBATCH --output=slurm-%j.out
#SBATCH --signal=B:USR1@120        # to this script, 120 s before time is up: enough for a step and a checkpoint

# source venv/bin/activate         # <- the environment with torch

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))            # two jobs on one machine do not meet
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun does not take it over by itself
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))

# When time is up torchrun gets a SIGTERM and hands it on: all processes make their step, save, and end, for which it leaves
# them 30 s. The job is then queued again under the same number. Any other end, such as a mistake in the config, would
# come again: it is not.
requeue=
time_is_up() {
    requeue=yes
    kill -TERM "$step"             # srun forwards it to torchrun on every machine
}
trap time_is_up USR1

# --max-restarts: how often all processes start again, from the newest checkpoint, when one has died.
# -r auto with --run-name: a job that was queued again continues its own run; a finished run stays finished.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="$SLURM_GPUS_ON_NODE" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first:$port" \
    --max-restarts=3 \
    train.py -c configs/cifar10_resnet.yaml --distributed -r auto --run-name "job-$SLURM_JOB_ID" &
step=$!

wait "$step"                       # a signal ends this one early,
code=$?
if [ -n "$requeue" ]; then
    wait "$step"                   # so wait again, for the checkpoint
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
