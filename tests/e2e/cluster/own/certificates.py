"""The cluster's certificate authority, certificates and kubeconfigs, made by openssl."""

import json
import subprocess
from pathlib import Path

SERVICE_ADDRESS = "10.96.0.1"


def make(pki: Path, node: str, address: str) -> None:
    """Writes `NAME.key` and `NAME.crt` for every component, and `sa.key`, `sa.pub` for service accounts."""
    pki.mkdir(parents=True)
    _openssl("req", "-x509", *_new_key(pki / "ca.key"), "-days", "3650", "-subj", "/CN=octavo-ca", "-out", pki / "ca.crt")
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", pki / "sa.key")
    _openssl("ec", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")
    domains = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"]
    names = [f"IP:{ip}" for ip in ("127.0.0.1", address, SERVICE_ADDRESS)] + [f"DNS:{domain}" for domain in domains]
    _certificate(pki, "apiserver", "/CN=kube-apiserver", ",".join(names))
    _certificate(pki, "kubelet", f"/O=system:nodes/CN=system:node:{node}", f"IP:{address},DNS:{node}")
    for name, subject in {
        "admin": "/O=system:masters/CN=admin",
        "apiserver-kubelet": "/O=system:masters/CN=apiserver-kubelet",
        "kube-controller-manager": "/CN=system:kube-controller-manager",
        "kube-scheduler": "/CN=system:kube-scheduler",
        "kube-proxy": "/CN=system:kube-proxy",
    }.items():
        _certificate(pki, name, subject, f"DNS:{name}")


def kubeconfig(pki: Path, who: str, server: str) -> str:
    """A kubeconfig with the one context `octavo`. JSON is YAML."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "octavo", "cluster": {"server": server, "certificate-authority": str(pki / "ca.crt")}}],
            "users": [{"name": who, "user": {"client-certificate": str(pki / f"{who}.crt"), "client-key": str(pki / f"{who}.key")}}],
            "contexts": [{"name": "octavo", "context": {"cluster": "octavo", "user": who}}],
            "current-context": "octavo",
        }
    )


def _certificate(pki: Path, name: str, subject: str, alternatives: str) -> None:
    request, extensions = pki / f"{name}.csr", pki / f"{name}.ext"
    extensions.write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=clientAuth,serverAuth\n")
    _openssl("req", *_new_key(pki / f"{name}.key"), "-subj", subject, "-out", request)
    authority = ("-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial")
    _openssl("x509", "-req", "-days", "3650", "-in", request, *authority, "-extfile", extensions, "-out", pki / f"{name}.crt")


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
