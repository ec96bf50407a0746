"""The verbs `operator` and `up`. Only their flags are defined here; what they run is imported when they run."""

import argparse
import asyncio
import logging
import sys
from functools import partial
from pathlib import Path

from octavo_api.command import Verb


def _operator_arguments(parser: argparse.ArgumentParser) -> None:
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--namespace", action="append", default=[], metavar="NAME", help="namespace to watch, can be given again (default: default)")
    scope.add_argument("--all-namespaces", action="store_true", help="watch every namespace")
    parser.add_argument("--engine-image", required=True, metavar="IMAGE", help="image of the replicas' pods")
    parser.add_argument("--image-pull-policy", default="IfNotPresent", choices=("Always", "IfNotPresent", "Never"), help="when nodes pull the image")
    parser.add_argument("--image-pull-secret", action="append", default=[], metavar="NAME", help="secret for pulling the image, can be given again")
    parser.add_argument("--gateway-url", required=True, metavar="URL", help="where clients reach the gateway; status.url says it")
    parser.add_argument("--liveness", default="http://0.0.0.0:8080/healthz", metavar="URL", help="listener of the operator's own liveness probe")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"), help="least severe level that is logged")


def _run_operator(arguments: argparse.Namespace) -> int:
    from octavo_operator.pods import PodOptions
    from octavo_operator.watch import OperatorOptions, namespaces_of, operate

    logging.basicConfig(stream=sys.stderr, level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("kopf", "httpx", "aiohttp"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    options = OperatorOptions(
        pods=PodOptions(image=arguments.engine_image, pull_policy=arguments.image_pull_policy, pull_secrets=tuple(arguments.image_pull_secret)),
        gateway_url=arguments.gateway_url,
        namespaces=namespaces_of(arguments.namespace, arguments.all_namespaces),
        liveness=arguments.liveness,
    )
    asyncio.run(operate(options))
    return 0


operator = Verb(
    name="operator",
    help="reconcile the LLMDeployments of a cluster",
    extra="operator",
    requires=("kopf", "kubernetes", "httpx"),
    add_arguments=_operator_arguments,
    run=_run_operator,
)


def _up_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="YAML file of LLMDeployments; followed as it changes")
    parser.add_argument("--ask", metavar="TEXT", help="ask the first model this and stream its answer to stdout")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address of the OpenAI endpoint (default: 127.0.0.1)")
    parser.add_argument("--port", default=8000, type=int, metavar="PORT", help="port of the OpenAI endpoint; 0: any free one (default: 8000)")
    parser.add_argument(
        "--stay",
        default=None,
        action=argparse.BooleanOptionalAction,
        help="after the answer, or once every model is ready, go on until Ctrl-C (default: on a terminal, and without --ask)",
    )


def _run_up(arguments: argparse.Namespace) -> int:
    from octavo_operator.up import UpOptions, up

    stay = (arguments.ask is None or sys.stdout.isatty()) if arguments.stay is None else arguments.stay
    options = UpOptions(files=tuple(arguments.files), ask=arguments.ask, host=arguments.host, port=arguments.port, stay=stay)
    return asyncio.run(up(options, partial(print, end="", flush=True)))


up = Verb(
    name="up",
    help="serve LLMDeployments on this machine, without a cluster",
    extra="all",
    requires=("httpx", "yaml", "rich", "uvloop", "torch"),
    add_arguments=_up_arguments,
    run=_run_up,
)
