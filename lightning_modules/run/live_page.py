"""The server of the live view, a viser server that the browsers of this machine alone may use.

It listens on the loopback address. That keeps other machines out, but not the pages of other sites, which a browser of
this machine may have open: such a page may open a websocket to any address. So whatever asks must say that it comes
from a page that this server has delivered. viser has no option for this; it hands its requests to websockets' `serve`
with the hook `process_request`, which is where they are checked.
"""

import contextlib
import io
from collections.abc import Callable
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.errors import InputError

if TYPE_CHECKING:
    from viser import ViserServer

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")  # of this machine, in a browser; a tunnel may have another port than the server


def require_viser() -> None:
    """Checks that the extra `viewer` is installed.

    Raises:
        InputError: It is not.
    """
    if find_spec("viser") is None:
        raise InputError("--view: viser is not installed; pip install 'prolific[viewer]'")


def is_own(host: str, origin: str | None, websocket: bool) -> bool:
    """Whether a request comes from a page of this server, by what no page can forge.

    Args:
        host: The header Host, which tells a name that somebody else's server has for this machine.
        origin: The header Origin, which a browser sends with every websocket; None where it is missing.
        websocket: Whether a websocket is asked for.
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    if name not in NAMES:
        return False
    return origin == f"http://{host}" if websocket or origin is not None else True


def only_own(answer: Callable) -> Callable:
    """Refuses what does not come from a page of this server.

    Args:
        answer: A `process_request` of websockets, which answers everything else.
    """

    def process_request(connection: Any, request: Any) -> Any:
        headers = request.headers
        websocket = "websocket" in headers.get("Upgrade", "").lower()
        if is_own(headers.get("Host", ""), headers.get("Origin"), websocket):
            return answer(connection, request)
        return connection.respond(HTTPStatus.FORBIDDEN, "Open the address that the run has printed.\n")

    return process_request


def start(port: int) -> "ViserServer":
    """Starts the server.

    Args:
        port: On which it listens, or the next one that is free.

    Raises:
        RuntimeError: This version of viser would not check who asks.
    """
    import viser  # takes a second
    from websockets.asyncio import server as websockets

    serve, hosts = websockets.serve, []

    def checking(handler: Callable, host: str, *more: Any, **options: Any) -> Any:
        hosts.append(host)
        return serve(handler, host, *more, **options | {"process_request": only_own(options["process_request"])})

    websockets.serve = checking
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the run says the address in its own words
            server = viser.ViserServer(ADDRESS, port, verbose=False)
    finally:
        websockets.serve = serve
    if set(hosts) != {ADDRESS}:
        stop(server)
        raise RuntimeError(f"viser {viser.__version__} does not start its server as the live view needs it")
    return server


def stop(server: "ViserServer") -> None:
    """Stops the server, without the words that viser has for it.

    Args:
        server: Of `start`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()
