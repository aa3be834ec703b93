"""Tests the address of the page, and the warning if other machines can reach this address."""

import socket
import warnings
from pathlib import Path

import pytest

from reversion_jax.runtime.errors import Caution
from reversion_jax.training.page import address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_a_loopback_address_gives_no_warning(host):
    assert address.is_loopback(host)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        address.warn_of_others(host, Path("runs"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_an_address_that_other_machines_can_reach_causes_a_warning(host):
    with pytest.warns(Caution, match="everyone who can reach this machine can train, draw and see the runs in runs"):
        address.warn_of_others(host, Path("runs"))


def test_a_browser_can_open_the_url_of_the_page():
    assert address.url("127.0.0.1", 7860) == address.url("0.0.0.0", 7860) == "http://127.0.0.1:7860"
    assert address.url("::1", 80) == "http://[::1]:80"


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot serve at 127.0.0.1, port {port} .*give another --port"):
            address.refuse_taken("127.0.0.1", port)
    address.refuse_taken("127.0.0.1", port)
