"""Runs a command as several processes of one job on this machine, to try out what a cluster will run.

    python launch/local.py --processes 2 -- python -m reversion_jax.train --distributed --config configs/miniature.py

Each process has its own simulated devices on the CPU. If a process fails, the other processes are stopped and the exit
status of the failed process is returned.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

_STOPPED = 130  # exit status of a process that a signal stopped after a checkpoint; the other processes stop too


def free_port() -> int:
    """Returns a port of this machine that no process uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> int:
    """Starts the processes and waits for them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command, after --")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or options.processes < 1:
        parser.error("give at least one process, and a command after --")
    job = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": str(options.processes)}
    processes = [
        subprocess.Popen(command, env={**os.environ, **job, "JAX_PROCESS_ID": str(i)}) for i in range(options.processes)
    ]
    # Ctrl-C reaches each process directly, and each process ends after the training steps that it is running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.returncode not in (None, 0, _STOPPED)]
        if failed:
            time.sleep(5)  # if all processes fail together, this lets each process print its message
            for process in processes:
                process.kill()
            return failed[0] if failed[0] > 0 else 1
        time.sleep(0.2)
    return max(abs(process.returncode) for process in processes)


if __name__ == "__main__":
    sys.exit(main())
