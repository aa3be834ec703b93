"""Runs a command as several processes of one job on this machine, each with its share of the CPU's (simulated) devices.

    python launch/local.py --processes 2 -- python -m reversion_jax.train --distributed --config configs/miniature.py

For trying out what a cluster will run. If a process fails, the others are stopped; its exit status is returned.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

_STOPPED = 130  # after a signal and a checkpoint; the others follow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or options.processes < 1:
        parser.error("give at least one process, and a command after --")
    job = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": str(options.processes)}
    processes = [
        subprocess.Popen(command, env={**os.environ, **job, "JAX_PROCESS_ID": str(i)}) for i in range(options.processes)
    ]
    # Ctrl-C reaches the processes by themselves; they end after the steps under way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.returncode not in (None, 0, _STOPPED)]
        if failed:
            time.sleep(5)  # most fail together, each with its message
            for process in processes:
                process.kill()
            return failed[0] if failed[0] > 0 else 1
        time.sleep(0.2)
    return max(abs(process.returncode) for process in processes)


if __name__ == "__main__":
    sys.exit(main())
