"""What a process of many does before it computes; light, so that it can be told apart from them at once."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PR_SET_PDEATHSIG = 1


def launched_together(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether something that starts several processes at once has started this one."""
    counts = (environment.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    names = ("JAX_COORDINATOR_ADDRESS", "JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    slurm = "SLURM_NTASKS" not in environment or "SLURM_PROCID" in environment  # else it is a shell of salloc
    tpu = find_spec("libtpu") is not None and any(Path(name).exists() for name in ("/dev/accel0", "/dev/vfio/0"))
    found = any(count.isdecimal() and int(count) > 1 for count in counts) and slurm
    return found or any(name in environment for name in names) or (tpu and "TPU_SKIP_MDS_QUERY" not in environment)


def supervise() -> None:
    """Goes on in a child process, while this one waits for its end and says what it means; must come before threads.

    Where one of several processes dies, JAX's runtime aborts the others, in C++ and with words of its own.
    """
    child = os.fork()
    if child == 0:
        if sys.platform == "linux":  # does not outlive this one
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the child, too
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print(
            f"bigjax: this process was ended by {signal.Signals(-status).name}, as it is when another process of the "
            "run has died. The same command in all of them goes on from the newest checkpoint.",
            file=sys.stderr,
        )
    sys.exit(status if status >= 0 else 1)
