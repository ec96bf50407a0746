"""The verbs `operator` and `up`. Only their flags are defined here; what they run is imported when they run."""

import argparse
import asyncio
import logging
import sys

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
    for chatty in ("kopf", "httpx"):
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
