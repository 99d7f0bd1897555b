#!/bin/bash
# One recipe on several machines of a Slurm cluster, started again until it is finished.
#   sbatch docs/slurm.sh tokenizer/full full-1 --data.path data/hard
# The arguments: a recipe, a name for the run, and anything else for `workshop fit`.
#SBATCH --job-name=workshop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Preempted, or five minutes before the time is up: this script is told first.
#SBATCH --signal=B:TERM@300
set -u
recipe=$1; name=$2; shift 2
. .venv/bin/activate
started=$(mktemp)

# One task per machine, which starts its processes; the first machine is where all meet. --resume
# goes on where there is something to go on from, so that the command is the same every time.
srun --kill-on-bad-exit=1 workshop fit -c "$recipe" --name "$name" --resume --max_hours 11.7 \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices 8 "$@" &
job=$!

# srun hands the signal on, and every process saves after its step and leaves.
trap 'kill -TERM $job' TERM
wait $job; wait $job

# Not finished, but further than before: once more. (A run that fails at once is left alone.)
run=$(ls -dt runs/"$name"/version_* | head -n 1)
if [ ! -e "$run/model.safetensors" ] && [ "$run/checkpoints/last.ckpt" -nt "$started" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
