"""Several processes that train one model: who starts them, how they meet, and what they share.

torchrun starts one process per device, on one machine or many, and says in the environment who is
who. `workshop fit --trainer.devices 8` calls it for you. Started by hand:

    torchrun --nproc_per_node=2 -m workshop_lib fit -c tokenizer/tiny
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from workshop_lib.errors import WorkshopError

# How long a process waits for one that hangs. One that died is noticed at once.
PATIENCE = timedelta(minutes=10)
T = TypeVar("T")


def started_by_torchrun() -> bool:
    """Whether this is one of the processes of a torchrun."""
    return dist.is_available() and dist.is_torchelastic_launched()


def place() -> tuple[int, int]:
    """(number of this process, how many there are): (0, 1) where it is alone."""
    if not started_by_torchrun():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def layout() -> dict[str, int]:
    """The trainer's `devices` and `num_nodes` of a torchrun; nothing where there is none."""
    if not started_by_torchrun():
        return {}
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": devices, "num_nodes": int(os.environ["WORLD_SIZE"]) // devices}


def join() -> None:
    """Meets the other processes, so that they can agree before Lightning starts.

    On GPUs two backends serve one group: NCCL what lies on them, gloo all else.
    """
    if not started_by_torchrun() or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)


def share(value: T) -> T:
    """What process 0 has of it; others may hand in anything."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def leave(status: int) -> NoReturn:
    """Ends this process of several at once, without Python's own cleaning up.

    Threads of gloo may still hold tensors then, and one that frees them while Python takes itself
    apart aborts the process: a run that went well would count as failed.
    """
    for child in multiprocessing.active_children():  # those that load data
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def devices_asked(arguments: list[str], recipe: dict[str, Any]) -> int:
    """How many processes the command line, or else the recipe, wants on this machine.

    Raises WorkshopError for several machines, which must be told of each other by torchrun.
    """
    trainer = recipe.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    asked = {key: str(trainer.get(key, 1)) for key in ("devices", "num_nodes")}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        key = name.removeprefix("--trainer.")
        if key != name and key in asked:
            asked[key] = value if equals else "".join(arguments[i + 1 : i + 2])
    if asked["num_nodes"] != "1":
        raise WorkshopError(
            f"trainer.num_nodes {asked['num_nodes']}: start torchrun on every machine instead, "
            f"e.g. torchrun --nnodes={asked['num_nodes']} --nproc_per_node=8 --rdzv_backend=c10d "
            f"--rdzv_endpoint=FIRST_MACHINE:29500 -m workshop_lib fit ... (docs/training.md)"
        )
    if asked["devices"] in ("auto", "-1"):
        return max(1, torch.cuda.device_count())
    return int(asked["devices"]) if asked["devices"].isdigit() else 1


def launch(verb: str, arguments: list[str], processes: int) -> int:
    """Runs the verb in so many processes on this machine, by torchrun; returns their exit status,
    or 1 where one was killed.

    Each has its share of the processor's cores, unless OMP_NUM_THREADS says otherwise.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    options = ["--standalone", f"--nproc_per_node={processes}", "-m", "workshop_lib", verb]
    try:
        torchrun([*options, *arguments])
    except ChildFailedError as error:
        ends = {number: failure.exitcode for number, failure in sorted(error.failures.items())}
        # The first that leaves ends the others; those that were stopped have saved all the same.
        ends = {number: code for number, code in ends.items() if code != -signal.SIGTERM}
        codes = set(ends.values())
        if len(codes) != 1 or min(codes) < 0:
            who = "; ".join(f"process {n} of {processes} {_end(code)}" for n, code in ends.items())
            print(f"workshop {verb}: {who or 'all processes were stopped'}", file=sys.stderr)
            return 1
        return codes.pop()
    return 0


def _end(code: int) -> str:
    """How a process ended, from its exit status; below 0 is minus a signal."""
    return f"failed (status {code})" if code >= 0 else f"died ({signal.Signals(-code).name})"
