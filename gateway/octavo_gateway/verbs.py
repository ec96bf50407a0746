"""The verb `octavo gateway`: its flags are the rows of `GatewaySettings`, and where the catalogue comes from."""

import argparse
from functools import partial
from pathlib import Path

import msgspec

from octavo_api.command import Verb
from octavo_api.errors import InvalidSetting
from octavo_api.settings import rows
from octavo_gateway.settings import GatewaySettings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--catalogue", type=Path, metavar="FILE", help="JSON file that says which models and replicas there are; followed as it changes")
    source.add_argument("--kubernetes", action="store_true", help="watch the LLMDeployments of a cluster and their pods")
    parser.add_argument("--namespace", action="append", default=[], metavar="NS", help="with --kubernetes: a namespace to watch, may be repeated; default: all")
    for row in rows(GatewaySettings):
        default = "none" if row.default is None else row.default
        parser.add_argument(row.flag, dest=row.name, default=argparse.SUPPRESS, metavar="VALUE", help=f"{row.help} (default: {default})".replace("%", "%%"))


def settings_of(arguments: dict[str, str]) -> GatewaySettings:
    """
    Raises:
        InvalidSetting: naming the flag, the value and what it must be.
    """
    given = {row.name: arguments[row.name] for row in rows(GatewaySettings) if row.name in arguments}
    for name, value in given.items():
        try:
            msgspec.convert({name: value}, GatewaySettings, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at `$")[0]
            raise InvalidSetting(f"--{name.replace('_', '-')} {value}: {reason}") from error
    return msgspec.convert(given, GatewaySettings, strict=False)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.namespace and not arguments.kubernetes:
        raise InvalidSetting("--namespace: only --kubernetes has namespaces; leave it out with --catalogue")
    settings = settings_of(vars(arguments))
    from octavo_gateway.serve import serve  # uvloop and, below, the Kubernetes client are not loaded for the help

    if arguments.kubernetes:
        from octavo_gateway.catalogue import kube

        return serve(settings, partial(kube.follow, arguments.namespace))
    from octavo_gateway.catalogue import local

    return serve(settings, partial(local.follow, arguments.catalogue))


gateway = Verb(
    name="gateway",
    help="Serve all models at one endpoint: route requests to replicas, hold them while a model wakes.",
    extra="gateway",
    requires=("uvloop", "httptools", "prometheus_client", "kubernetes"),
    add_arguments=_add_arguments,
    run=_run,
)
