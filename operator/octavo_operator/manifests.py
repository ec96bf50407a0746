"""Reading LLMDeployments from YAML files, each error with its file and the field's path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from octavo_api.errors import InvalidResource
from octavo_api.resource import LLMDeployment, parse
from octavo_operator.types import Key


class Manifest(NamedTuple):
    """A resource and the folder that its relative paths start from."""

    content: dict[str, Any]
    resource: LLMDeployment
    folder: Path

    @property
    def key(self) -> Key:
        return Key(self.resource.namespace, self.resource.name)


def load(files: Sequence[Path]) -> list[Manifest]:
    """Every resource of `files`, in order.

    Raises:
        InvalidResource: one line that names the file, the field and what to do.
    """
    found = [manifest for file in files for manifest in _load(file)]
    if not found:
        raise InvalidResource(f"{', '.join(map(str, files))}: holds no LLMDeployment")
    for name, owner in _twice(found):
        raise InvalidResource(f"{owner}: the name {name!r} is taken by another resource; choose another metadata.name, servedName or alias")
    return found


def _load(file: Path) -> list[Manifest]:
    try:
        documents = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
    except OSError as error:
        raise InvalidResource(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidResource(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    manifests = []
    for number, document in enumerate(documents, start=1):
        where = str(file) if len(documents) == 1 else f"{file}, document {number}"
        if not isinstance(document, dict):
            raise InvalidResource(f"{where}: is {type(document).__name__}, must be an LLMDeployment")
        try:
            manifests.append(Manifest(document, _local(parse(document)), file.resolve().parent))
        except InvalidResource as error:
            raise InvalidResource(f"{where}: {error}") from error
    return manifests


def _local(resource: LLMDeployment) -> LLMDeployment:
    source = resource.spec.model.source
    if source.startswith("pvc://"):
        raise InvalidResource(f"spec.model.source: {source!r} needs a cluster; name the folder or file instead, as file:///path")
    return resource


def _twice(manifests: list[Manifest]) -> list[tuple[str, Key]]:
    taken: dict[str, Key] = {}
    twice = []
    for manifest in manifests:
        for name in (*manifest.resource.names, str(manifest.key)):
            if name in taken:
                twice.append((name, manifest.key))
            taken[name] = manifest.key
    return twice
