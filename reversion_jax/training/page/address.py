"""Checks the address at which the page is served: who can reach it, and whether its port is free."""

import ipaddress
import socket
from pathlib import Path

from reversion_jax.runtime.errors import warn


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a page served at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn_of_others(host: str, folder: Path) -> None:
    """Warns if other machines can reach a page served at `host`."""
    if not is_loopback(host):
        warn(
            f"--host={host}: everyone who can reach this machine can train, draw and see the runs in {folder}, "
            "without a password"
        )


def refuse_taken(host: str, port: int) -> None:
    """Raises OSError if the page cannot be served at this host and port."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the server sets this option too
            probe.bind((host, port))
    except OSError as error:
        raise OSError(
            f"cannot serve at {host}, port {port} ({error.strerror}): close the other program, or give another --port"
        ) from error


def url(host: str, port: int) -> str:
    """Returns the address to open in a browser on this machine."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
