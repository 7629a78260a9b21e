import importlib.util
import socket
import sys
import urllib.error
import urllib.request

import pytest

from common.errors import InputError
from lightning_modules import cli, dream
from lightning_modules.run import live_page
from lightning_modules.run.live_page import is_own, require_viser, start, stop

viser = pytest.importorskip("viser")


@pytest.fixture(scope="module")
def server():
    started = start(8340)
    yield started
    stop(started)


@pytest.mark.parametrize(
    ("host", "origin", "websocket", "own"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080", True, True),
        ("localhost:9000", "http://localhost:9000", True, True),  # a tunnel from another machine
        ("127.0.0.1:8080", None, False, True),  # the page itself
        ("127.0.0.1:8080", None, True, False),  # no browser
        ("127.0.0.1:8080", "http://evil.example", True, False),
        ("127.0.0.1:8080", "http://127.0.0.1:8888", True, False),  # another program of this machine
        ("127.0.0.1:8080", "https://127.0.0.1:8080", True, False),
        ("127.0.0.1:8080", "null", True, False),  # a page from the disk, or in a sandbox
        ("evil.example:8080", "http://evil.example:8080", True, False),  # a name that was bound to this machine
        ("evil.example:8080", None, False, False),
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", True, False),
        ("[::1", None, False, False),
        ("", None, False, False),
    ],
)
def test_whose_request_it_is(host, origin, websocket, own):
    assert is_own(host, origin, websocket) == own


def shaken(port, **headers):
    """The status with which the server answers to a websocket that is asked for."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"} | headers
    headers |= {
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": f"viser-v{viser.__version__}",
    }
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        one.sendall("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
        return int(one.recv(100).split()[1])


def test_the_server_refuses_websockets_of_other_pages(server):
    port = server.get_port()
    own = {"Host": f"127.0.0.1:{port}"}
    assert shaken(port, **own, Origin=f"http://127.0.0.1:{port}") == 101
    assert shaken(port, **own, Origin="http://evil.example") == 403
    assert shaken(port, **own) == 403
    assert shaken(port, **own | {"Upgrade": "WebSocket"}, Origin="http://evil.example") == 403
    assert shaken(port, Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}") == 403


def test_the_page_itself_is_delivered_and_not_under_a_foreign_name(server):
    address = f"http://127.0.0.1:{server.get_port()}"
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert b"<html" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=20)


def test_it_listens_on_this_machine_alone_and_says_nothing(capsys):
    server = start(8350)
    with socket.create_connection(("127.0.0.1", server.get_port()), timeout=20) as own:
        own.shutdown(socket.SHUT_WR)
        while own.recv(1000):  # until the server has closed its end, which `stop` does not wait for
            pass
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", server.get_port()), timeout=20)
    stop(server)
    assert capsys.readouterr().out == ""


def test_a_port_that_is_taken_is_left_to_its_owner(server):
    second = start(server.get_port())
    assert second.get_port() != server.get_port()
    stop(second)


def test_a_viser_that_goes_another_way_is_not_trusted(monkeypatch):
    class Other:
        def __init__(self, *_, **__):
            pass

        def stop(self):
            pass

    monkeypatch.setattr(viser, "ViserServer", Other)
    with pytest.raises(RuntimeError, match="does not start its server"):
        start(8360)


@pytest.mark.usefixtures("elsewhere")
def test_without_viser_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(live_page, "find_spec", lambda name: None if name == "viser" else found(name))
    with pytest.raises(InputError):
        require_viser()
    nerf = "fit", "--config", str(live_page.__file__).replace("lightning_modules/run/live_page.py", "configs/nerf.yaml")
    for main, arguments, name in (
        (cli.main, [*nerf, "--prompt", "a duck", "--view", "--trainer.accelerator=cpu"], "vsd"),
        (dream.main, ["a duck", "--view"], "dream"),
    ):
        monkeypatch.setattr(sys, "argv", [name])
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        line = f"{name}: --view: viser is not installed; pip install 'prolific[viewer]'\n"
        assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []
