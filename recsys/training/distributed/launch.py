"""torchrun with plain ends: who did not come is said in a line and in bounded time, a lost run begins again as a whole.

torch's own restarts (``--max-restarts``) keep what is left of a run, which is nothing where tables are spread over all
hosts, and cannot meet anew where the first node was lost. Here every node that ends for lack of another one starts
anew, in a fresh process, and meets the others again; ``recsys train --resume`` goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import ConfigError, RecsysError

WAIT_S = 300
"""Longest wait for the other nodes; ``--rdzv-conf=timeout=N`` says another. torchrun's own is 900."""
PAUSE_S = 3.0
"""Before all begin again: until then the first node of the run that failed may still answer."""


@dataclass(frozen=True)
class Ended:
    """End of a start of this host's processes.

    Attributes:
        code: exit code, that of the process that failed first.
        why: for people; empty where all ended well.
        again: a new start may help.
    """

    code: int
    why: str = ""
    again: bool = False


def restarts_of(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """The number of ``--max-restarts``, 0 by default, and the arguments without it; those of the program stay.

    >>> restarts_of(["--nnodes=2", "--max_restarts", "3", "train.py", "--max-restarts=7"])
    (3, ['--nnodes=2', 'train.py', '--max-restarts=7'])
    """
    from torch.distributed.run import parse_args

    program = parse_args(list(arguments)).training_script_args  # type: ignore[no-untyped-call]
    own = len(arguments) - len(program)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--max-restarts", "--max_restarts", type=int, default=0)
    known, rest = parser.parse_known_args(list(arguments[:own]))
    return known.max_restarts, [*rest, *program]


def launch(arguments: Sequence[str]) -> Ended:
    """Start this node's processes, once, and wait for their end.

    Args:
        arguments: torchrun's, without ``--max-restarts``. Wrong ones end the process with its usage and code 2.

    Raises:
        ConfigError: a rendezvous of another kind than torchrun's own default, an endpoint without a port, or a time
            that is none.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # names of hosts that no DNS knows are no problem
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the same in many lines
    options = parse_args(list(arguments))  # type: ignore[no-untyped-call]
    if options.rdzv_backend != "static" and not options.standalone:
        raise ConfigError(
            f"--rdzv-backend is {options.rdzv_backend!r}; allowed: static, the default; others take a host with "
            "another clock for a lost one"
        )
    host, port = _meeting_place(options)
    options.rdzv_conf = ",".join(filter(None, (f"timeout={WAIT_S},join_timeout={WAIT_S}", options.rdzv_conf)))
    wait_s = _wait_s(options.rdzv_conf)
    began_s = time.monotonic()
    try:
        if not options.standalone and options.node_rank > 0:
            _wait_for(host, port, wait_s=wait_s, node=options.node_rank)
        run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return _of_process(*error.get_first_failure())
    except SignalException as error:
        return Ended(130, f"ended by {signal.Signals(error.sigval).name}")
    except RecsysError as error:
        return Ended(1, str(error))
    except (RendezvousError, DistError) as error:
        waited_s = time.monotonic() - began_s
        return Ended(1, _nobody_came(options.nnodes, f"{host} port {port}", error, waited_s), again=waited_s < wait_s)
    return Ended(0)


def start_again(arguments: Sequence[str], *, restarts: int) -> None:
    """Become a fresh process of the same command, with one restart less; does not return."""
    time.sleep(PAUSE_S)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # torch's listening sockets among them
    command = ["-m", "recsys.cli", "torchrun", f"--max-restarts={restarts - 1}", *arguments]
    os.execv(sys.executable, [sys.executable, *command])


def _wait_s(rendezvous: str) -> int:
    given = dict(pair.split("=", 1) for pair in rendezvous.split(",") if "=" in pair)
    if not re.fullmatch(r"[1-9][0-9]{0,5}", given["timeout"]):
        raise ConfigError(f"--rdzv-conf: timeout is {given['timeout']!r}; allowed: whole seconds, 1 or more")
    return int(given["timeout"])


def _meeting_place(options: Any) -> tuple[str, int]:
    if not options.rdzv_endpoint:
        return options.master_addr, int(options.master_port or 29500)
    host, _, port = options.rdzv_endpoint.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ConfigError(f"--rdzv-endpoint is {options.rdzv_endpoint!r}; allowed: HOST:PORT")
    return host, int(port)


def _wait_for(host: str, port: int, *, wait_s: float, node: int) -> None:
    """Wait until the first node listens.

    Raises:
        RecsysError: it does not in time.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(0.1, min(left_s, 5.0))):
                return
        except OSError as error:
            if left_s > 0.5:
                time.sleep(0.5)
                continue
            raise RecsysError(
                f"node {node} waited {wait_s:g} s for node 0 at {host} port {port}, and nothing answered "
                f"({error.strerror or error}); start node 0 there, or give its address and port to all nodes "
                "(--master-addr, --master-port)"
            ) from None


def _nobody_came(nodes: str, where: str, error: Exception, waited_s: float) -> str:
    reason = str(error.__cause__ or error).strip().partition("\n")[0]
    return (
        f"not all of {nodes} nodes met at {where} within {waited_s:.0f} s ({reason}); start every node, each with "
        "another --node-rank, and the same --nnodes, --master-addr and --master-port"
    )


def _of_process(rank: int, failure: Any) -> Ended:
    code = failure.exitcode
    if code < 0:
        said = f"process {rank} was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            said += ": by hand, or for want of memory"
        return Ended(1, said, again=True)
    return Ended(code, f"process {rank} ended with exit code {code}; what it said is above", again=code == 1)
