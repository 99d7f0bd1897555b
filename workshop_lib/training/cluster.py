"""Several processes that train one model: who starts them, how they meet, and what they share.

torchrun starts one process per device, on one machine or many, and says in the environment who is
who. `workshop fit --trainer.devices 8` calls it for you. Started by hand:

    torchrun --nproc_per_node=2 -m workshop_lib fit -c tokenizer/tiny
"""

from __future__ import annotations

import faulthandler
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

    On GPUs two backends serve one group: NCCL what lies on them, gloo all else. From here on a
    process that native code brings down (an abort, a torn memory) says where it was.
    """
    if not started_by_torchrun() or dist.is_initialized():
        return
    faulthandler.enable()
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


def layout_asked(arguments: list[str], recipe: dict[str, Any]) -> tuple[int, int]:
    """(machines, processes on each) that the command line, or else the recipe, wants."""
    trainer = recipe.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    asked = {key: str(trainer.get(key, 1)) for key in ("num_nodes", "devices")}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        key = name.removeprefix("--trainer.")
        if key != name and key in asked:
            asked[key] = value if equals else "".join(arguments[i + 1 : i + 2])
    if asked["devices"] in ("auto", "-1"):
        asked["devices"] = str(max(1, torch.cuda.device_count()))
    machines, processes = (int(n) if n.isdigit() else 1 for n in asked.values())
    return machines, processes


def launch(verb: str, arguments: list[str], machines: int, processes: int) -> int:
    """Runs the verb in so many processes on this machine, by torchrun; returns their exit status,
    or 1 where one was killed. Of several machines each must run it.

    Each process has its share of the processor's cores, unless OMP_NUM_THREADS says otherwise.

    Raises WorkshopError if the machines do not know where to meet, or do not.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    meeting = _meeting(machines) if machines > 1 else ["--standalone"]
    options = [*meeting, f"--nproc_per_node={processes}", "-m", "workshop_lib", verb]
    try:
        torchrun([*options, *arguments])
    except RendezvousError as error:
        raise WorkshopError(
            f"trainer.num_nodes {machines}: not all machines met ({meeting[-1]}). Run the same "
            f"command on each of them ({error})"
        ) from error
    except ChildFailedError as error:
        ends = {number: failure.exitcode for number, failure in sorted(error.failures.items())}
        # The first that leaves ends the others; those that were stopped have saved all the same.
        ends = {number: code for number, code in ends.items() if code != -signal.SIGTERM}
        codes = set(ends.values())
        if len(codes) != 1 or min(codes) < 0:
            total = machines * processes
            who = "; ".join(f"process {n} of {total} {_end(code)}" for n, code in ends.items())
            print(f"workshop {verb}: {who or 'all processes were stopped'}", file=sys.stderr)
            return 1
        return codes.pop()
    return 0


def _meeting(machines: int) -> list[str]:
    """torchrun's options for several machines: they meet on the one that MASTER_ADDR names, at
    MASTER_PORT, or on the first one of a Slurm job."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    if not {"MASTER_ADDR", "SLURM_NODELIST"} & os.environ.keys():
        raise WorkshopError(
            f"trainer.num_nodes {machines}: on each machine, set MASTER_ADDR to the name of the "
            f"first one and run the same command; under Slurm, start it with srun, one task per "
            f"machine (docs/training.md)"
        )
    where = SLURMEnvironment()
    return [
        f"--nnodes={machines}",
        "--rdzv_backend=c10d",
        f"--rdzv_id={os.environ.get('SLURM_JOB_ID', 'workshop')}",
        f"--rdzv_endpoint={where.main_address}:{where.main_port}",
    ]


def _end(code: int) -> str:
    """How a process ended, from its exit status; below 0 is minus a signal."""
    return f"failed (status {code})" if code >= 0 else f"died ({signal.Signals(-code).name})"
