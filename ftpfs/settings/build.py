"""A `Config` from an address, the values of options and the environment of the process.

Owns which of them wins, and which combinations are errors or worth a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftpfs.errors import InvalidArgument
from ftpfs.settings.config import Cache, Config, Mount, Network, Server, Tls, Write
from ftpfs.settings.credentials import Surroundings, login, proxy_password
from ftpfs.settings.options import FORMER, KERNEL_FLAGS, OPTIONS
from ftpfs.settings.source import Source, unquote

# Each of these demands TLS: with one of them nothing goes in clear.
_TLS_NEEDED = ("tls_ca", "tls_cert", "tls_key", "tls_fingerprint")


def build_config(source: Source, values: Mapping[str, object], around: Surroundings) -> Config:
    """The configuration for `source` with option `values` (by name). Options win over the URL.

    Raises InvalidArgument, also if a password is needed and no place has one.
    """
    values = {**source.options, **values}
    for former in sorted(set(FORMER) & set(values)):
        around.warn(f"{former} is called {FORMER[former]} now")
        values.setdefault(FORMER[former], values[former])
    if values.get("cache_size") == 0:
        if values.get("cache_dir"):
            around.warn("cache_dir has no effect: with cache_size=0 nothing is stored")
        if values.get("offline") == "always":
            raise InvalidArgument("offline=always shows what is stored: nothing, with cache_size=0")
    _check_addresses(values, around.warn)
    if values.get("proxy") and values.get("active"):
        raise InvalidArgument("active and proxy exclude each other: no server connects to a proxy")
    kernel_flags = values.get(KERNEL_FLAGS)
    return Config(
        server=_server(source, values, around),
        network=_network(values, around),
        cache=Cache(**_values_of(Cache, values)),
        write=Write(**_values_of(Write, values)),
        mount=Mount(
            **_values_of(Mount, values),
            kernel_flags=kernel_flags if isinstance(kernel_flags, tuple) else (),
        ),
    )


def _check_addresses(values: Mapping[str, object], warn: Callable[[str], None]) -> None:
    """Raises InvalidArgument if the options about addresses of this machine contradict others."""
    bound = str(values.get("bind_address") or "")
    family = values.get("address_family")
    if bound and family and (":" in bound) != (family == "6"):
        raise InvalidArgument(f"bind_address {bound} is no address of IPv{family}")
    if values.get("active_ports") and not values.get("active"):
        warn("active_ports has no effect: active lets the server open the data connections")
    if values.get("proxy"):
        for name in ("bind_address", "address_family"):
            if values.get(name):
                warn(f"{name} has no effect: the proxy makes the connections")


def _server(source: Source, values: Mapping[str, object], around: Surroundings) -> Server:
    file = values.get("password_file")
    user, password = login(
        source.host,
        user=str(values.get("user") or source.user or ""),
        password=source.password if values.get("user", source.user) == source.user else None,
        file=file if isinstance(file, Path) else None,
        around=around,
    )
    given = {
        "host": source.host,
        # Without a trailing slash, unless it is the server's root.
        "path": source.path.rstrip("/") or source.path[:1],
        "port": source.port or source.tls.default_port,
        **_values_of(Server, values),
        "tls": _tls(source.tls, values, around.warn),
        "user": user,
        "password": password,
    }
    return Server(**given)


def _network(values: Mapping[str, object], around: Surroundings) -> Network:
    given = _values_of(Network, values)
    if "@" in given.get("proxy", ""):
        from urllib.parse import urlsplit

        proxy = urlsplit(given["proxy"])
        user = unquote(proxy.username or "")
        given["proxy_login"] = user, proxy_password(proxy.hostname or "", user, around)
    return Network(**given)


def _tls(scheme: Tls, values: Mapping[str, object], warn: Callable[[str], None]) -> Tls:
    """The stronger of what the address and the options ask for.

    Raises InvalidArgument if they contradict each other, and for files that cannot be read.
    """
    given = [name for name in OPTIONS if name.startswith("tls_") and values.get(name)]
    needing = [name for name in given if name in _TLS_NEEDED]
    tls = _tls_wanted(scheme, values.get("tls"), needing)
    for name in needing:
        if isinstance(file := values[name], Path):
            _check_readable(name, file)
    if "tls_key" in given and "tls_cert" not in given:
        raise InvalidArgument("tls_key is the key of a certificate: tls_cert is missing")
    if tls is Tls.OFF:
        useless = given
    elif "tls_fingerprint" in given:
        useless = [name for name in given if name in ("tls_ca", "tls_insecure")]
    else:
        useless = ["tls_ca"] if {"tls_ca", "tls_insecure"} <= set(given) else []
    for name in useless:
        why = "TLS is off" if tls is Tls.OFF else "the certificate is not checked by it"
        warn(f"{name} has no effect: {why}")
    return tls


def _tls_wanted(scheme: Tls, wanted: object, needing: list[str]) -> Tls:
    """`needing`: the given options that demand TLS. They ask for explicit TLS."""
    if scheme is not Tls.OFF:
        if wanted == "off":
            raise InvalidArgument("the address asks for TLS and the option tls=off forbids it")
        return scheme
    if needing and wanted in ("off", "optional"):
        raise InvalidArgument(f"{needing[0]} demands TLS, but tls={wanted} allows to go without")
    asked = {"required": Tls.EXPLICIT, "optional": Tls.OPTIONAL}.get(str(wanted), Tls.OFF)
    return Tls.EXPLICIT if needing else asked


def _check_readable(name: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise InvalidArgument(f"{name} {file}: {error.strerror or error}") from None


def _values_of(part: type, values: Mapping[str, object]) -> dict[str, Any]:
    return {
        option.field: values[option.name]
        for option in OPTIONS.values()
        if option.part is part and option.name in values
    }
