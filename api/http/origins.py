"""Refusal of requests that web pages other than the server's own send.

A browser lets every page send requests to this machine.  Two checks refuse those of other
pages.  Neither affects programs, which name the server as ``Host`` and send none of the
other headers:

``Host``
    A page may read the answers of its own origin.  Its owner can make the page's name
    resolve to 127.0.0.1 once the page is loaded (DNS rebinding), and then the API belongs to
    that origin.  The browser still sends the page's name as ``Host``, so a request is
    answered only if its host is known to be ours.

``Sec-Fetch-Site``, ``Origin``
    A page of another origin cannot read an answer, but a form or an image sends its request
    nevertheless.  Browsers state where a request comes from, and no page can change this.  A
    request that changes something is executed only for our own pages, for those that the
    operator has configured, and for programs.

``X-Forwarded-Host`` and similar headers are ignored, because any client can write them.  So
is ``SERVER_NAME``, which gunicorn takes from ``Host`` on a Unix socket.
"""

import re
from collections.abc import Collection
from typing import Any, Final

import falcon

from ledger.processes.hosts import address_of, is_loopback, is_wildcard, parse_authority

# Methods that change nothing, except a GET with `changing_get`.
READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# More values of Host than a server sees in practice; others are parsed each time.
_MOST_REMEMBERED: Final = 1_000
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# A page of ours, or the user: a typed address, a bookmark.
_OURS: Final = frozenset({"same-origin", "none"})


class Hosts:
    """The hosts that a request may name: this machine's, and configured ones.

    Args:
        named: As ``ledger.processes.hosts`` writes them.  A wildcard address stands for every
            address: DNS rebinding needs a name, and Kubernetes sends probes to the address of a
            pod, which is not known beforehand.
    """

    def __init__(self, named: Collection[str]) -> None:
        self._named = frozenset(named)
        self._any_address = any(map(is_wildcard, named))

    def __contains__(self, host: object) -> bool:
        if not isinstance(host, str):
            return False
        return (
            host in self._named
            or is_loopback(host)
            or (self._any_address and address_of(host) is not None)
        )

    def accept(self, authority: str) -> bool:
        """Return whether *authority*, a host with or without a port, is one of them."""
        try:
            return parse_authority(authority).host in self
        except ValueError:
            return False


def is_own_origin(origin: str, host: str | None) -> bool:
    """Return whether a page of *origin* was served under the ``Host`` of a request.

    Whether TLS ends in front of the server is unknown, so a ``Host`` without a port has the
    default port of the origin's scheme.
    """
    scheme, _, authority = origin.partition("://")
    if scheme not in _DEFAULT_PORTS or host is None:
        return False
    try:
        page, requested = parse_authority(authority), parse_authority(host)
    except ValueError:
        return False
    default = _DEFAULT_PORTS[scheme]
    ports = [default if port is None else port for port in (page.port, requested.port)]
    return page.host == requested.host and ports[0] == ports[1]


class Origins:
    """The middleware with these checks; it is the first, so that a refused request costs little.

    Args:
        hosts: Hosts that a request may name, besides this machine's own.
        cors_origins: Origins of web pages that may use the API.
        changing_gets: Templates of the routes whose GET changes something.
    """

    def __init__(
        self,
        hosts: Collection[str],
        cors_origins: Collection[str],
        changing_gets: Collection[str],
    ) -> None:
        self._hosts = Hosts(hosts)
        self._cors_origins = frozenset(cors_origins)
        self._changing_gets = frozenset(changing_gets)
        self._remembered: set[str] = set()

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Refuse an unknown host, and a change that a page of another origin requests.

        Raises:
            falcon.HTTPError: 421 or 403.
        """
        env = req.env
        host = env.get("HTTP_HOST")
        # HTTP/1.0 clients, such as health checks, send no Host; every browser sends one.
        if host is not None and host not in self._remembered:
            self._check("Host", host)
            if len(self._remembered) < _MOST_REMEMBERED:
                self._remembered.add(host)
        target = env.get("RAW_URI", "/")
        if not target.startswith("/") and target != "*":
            self._check("request target", target, _authority_of(target))
        # For all routes, so that routes added later are protected too.
        if env["REQUEST_METHOD"] not in READING_METHODS:
            self._check_change(env)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Refuse a GET that changes something; after routing, so that no spelling evades it.

        Raises:
            falcon.HTTPForbidden: A page of another origin requests it.
        """
        if req.method == "GET" and req.uri_template in self._changing_gets:
            self._check_change(req.env)
            _check_stated(req.env)

    def _check(self, name: str, value: str, authority: str | None = None) -> None:
        if not self._hosts.accept(value if authority is None else authority):
            raise falcon.HTTPError(
                falcon.HTTP_421,
                description=f"{name}: expected localhost, a loopback address, or the host that "
                f"the server listens on, got {value!r:.80}; clients may use other names once "
                "LEDGER_HOSTS lists them",
            )

    def _check_change(self, env: dict[str, Any]) -> None:
        origin: str | None = env.get("HTTP_ORIGIN")
        if origin in self._cors_origins:
            return
        site: str | None = env.get("HTTP_SEC_FETCH_SITE")
        if site is not None:
            if site.strip().lower() not in _OURS:
                raise _forbidden("Sec-Fetch-Site", "same-origin or none", site)
        elif origin is not None and not is_own_origin(origin, env.get("HTTP_HOST")):
            raise _forbidden("Origin", "the server's own", origin)


class VaryByOrigin:
    """The middleware that tells caches that answers depend on ``Origin``, as those of CORS do."""

    def process_response(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        resource: object,
        req_succeeded: bool,  # noqa: FBT001 - falcon's
    ) -> None:
        """Add the header to every answer, also to one for a request without ``Origin``."""
        # Otherwise a cache gives that answer to a page which then may not read it.
        resp.append_header("Vary", "Origin")


def _check_stated(env: dict[str, Any]) -> None:
    """Refuse a GET to 0.0.0.0 that changes something, unless its headers state its origin.

    Every page can use this address of the user's machine, but browsers consider it a remote one:
    over plain HTTP, they do not send the origin of a GET to it.
    """
    host = env.get("HTTP_HOST")
    is_stated = "HTTP_SEC_FETCH_SITE" in env or "HTTP_ORIGIN" in env
    if host is not None and not is_stated and is_wildcard(parse_authority(host).host):
        raise falcon.HTTPForbidden(
            description="Host: expected a name or an address of the server for a GET that changes "
            f"something, got {host!r:.80}; use localhost, or send a POST"
        )


def _authority_of(target: str) -> str:
    """Return the authority of ``http://authority/path?query``, or "" if there is none."""
    return re.split(r"[/?#]", target.partition("://")[2], maxsplit=1)[0]


def _forbidden(name: str, expected: str, got: str) -> falcon.HTTPError:
    return falcon.HTTPForbidden(
        description=f"{name}: expected {expected} for a request that changes something, got "
        f"{got!r:.80}; pages of other origins may change something once LEDGER_CORS_ORIGINS "
        "lists their origin"
    )
