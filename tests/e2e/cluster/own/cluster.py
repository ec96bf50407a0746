"""A real single-node Kubernetes without Docker: the control plane, containerd, kubelet, kube-proxy and CoreDNS
as processes of this machine.

    cluster.py start HOME KUBE COREDNS    a Ready node; one that is healthy already is kept, anything else replaced
    cluster.py stop HOME                  ends every process and pod; the images stay, until HOME is removed

HOME holds all state. KUBE is one program that acts as each component by the name it is called by.
Building the programs is left to `up`.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import certificates
import processes

NODE = "octavo-node"
ADDRESS = "10.90.0.1"
"""The node's address, on a veth pair of its own: nothing depends on the machine's network."""
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
SERVER = f"https://{ADDRESS}:6443"
ETCD = "http://127.0.0.1:2379"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy", "coredns")


class Cluster:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.pki = home / "pki"
        self.bin = home / "bin"
        self.socket = home / "containerd.sock"
        self.conf = home / "conf"

    def start(self, kube: Path, coredns: Path) -> None:
        if self.healthy():
            return
        self.stop()
        for folder in (self.bin, self.conf / "cni"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"):
            _link(self.bin / name, kube)
        _link(self.bin / "coredns", coredns)
        self._network()
        certificates.make(self.pki, NODE, ADDRESS)
        for who in ("admin", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
            (self.home / f"{who}.kubeconfig").write_text(certificates.kubeconfig(self.pki, who, SERVER))
        self._write_configs()
        self._run("containerd", f"--config {self.conf}/containerd.toml")
        self._control_plane()
        _until("containerd answers", 30, lambda: self._ctr("version").returncode == 0)
        self._forget_containers()
        self._node()
        self._apply_dns()
        _until(f"node {NODE} is Ready", 90, self._ready)
        _until("pods can be made", 30, lambda: self._kubectl("get", "serviceaccount", "default").returncode == 0)

    def stop(self) -> None:
        """Whatever runs or was left by a cluster at this home is gone afterwards, but for the images."""
        processes.kill(self.home, ("kubelet", "kube-proxy", "coredns"))
        processes.kill_pods(self.home)
        processes.kill(self.home, COMPONENTS)
        _remove_rules()
        self._unmount()
        for name in ("etcd", "kubelet", "pki", "pod-logs", "conf", "bin", "containerd/state", "containerd/runc", "cni-state"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        for path in self.home.glob("*.kubeconfig"):
            path.unlink()
        _remove_cgroups()
        for device in ("octavo0", "octavo-pods"):
            subprocess.run(["ip", "link", "delete", device], check=False, capture_output=True)

    def healthy(self) -> bool:
        """Every component runs and the node is Ready."""
        alive = set(processes.running(self.home, COMPONENTS).values())
        return alive == set(COMPONENTS) and (self.home / "admin.kubeconfig").exists() and self._ready()

    def _network(self) -> None:
        subprocess.run(["modprobe", "br_netfilter"], check=False, capture_output=True)
        for command in (
            ["ip", "link", "add", "octavo0", "type", "veth", "peer", "name", "octavo1"],
            ["ip", "address", "add", f"{ADDRESS}/24", "dev", "octavo0"],
            ["ip", "link", "set", "octavo0", "up"],
            ["ip", "link", "set", "octavo1", "up"],
            ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"],
        ):
            _check(command)
        # kubelet on cgroup v1 sorts out huge pages through a hierarchy that not every machine mounts
        hugetlb = Path("/sys/fs/cgroup/hugetlb")
        if Path("/sys/fs/cgroup/memory").is_dir() and not hugetlb.is_dir():
            hugetlb.mkdir()
            if subprocess.run(["mount", "-t", "cgroup", "-o", "hugetlb", "cgroup", hugetlb], check=False, capture_output=True).returncode:
                hugetlb.rmdir()

    def _write_configs(self) -> None:
        bridge = {
            "type": "bridge",
            "bridge": "octavo-pods",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "dataDir": f"{self.home}/cni-state", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
        (self.conf / "cni" / "10-pods.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}))
        (self.conf / "resolv.conf").write_text("")
        (self.conf / "containerd.toml").write_text(_CONTAINERD.format(home=self.home, conf=self.conf))
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{self.pki}/ca.crt"}},
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "failCgroupV1": False,
            "tlsCertFile": f"{self.pki}/kubelet.crt",
            "tlsPrivateKeyFile": f"{self.pki}/kubelet.key",
            "resolvConf": f"{self.conf}/resolv.conf",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": f"{self.home}/pod-logs",
        }
        (self.conf / "kubelet.yaml").write_text(json.dumps(kubelet))
        (self.conf / "Corefile").write_text(_COREFILE.format(address=ADDRESS, home=self.home))

    def _control_plane(self) -> None:
        pki = self.pki
        self._run(
            "etcd",
            f"--data-dir={self.home}/etcd --unsafe-no-fsync --log-level=warn",
            f"--listen-client-urls={ETCD} --advertise-client-urls={ETCD} --listen-peer-urls=http://127.0.0.1:2380",
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers={ETCD} --advertise-address={ADDRESS} --bind-address=0.0.0.0 --secure-port=6443",
            f"--tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key --client-ca-file={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt --kubelet-client-key={pki}/apiserver-kubelet.key",
            f"--kubelet-certificate-authority={pki}/ca.crt --kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={pki}/sa.pub --service-account-signing-key-file={pki}/sa.key",
            f"--service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged",
        )
        _until("the API server answers", 90, lambda: self._kubectl("get", "--raw", "/readyz").returncode == 0)
        self._client(
            "kube-controller-manager",
            f"--service-account-private-key-file={pki}/sa.key --use-service-account-credentials --leader-elect=false",
            f"--root-ca-file={pki}/ca.crt --cluster-signing-cert-file={pki}/ca.crt --cluster-signing-key-file={pki}/ca.key",
            "--pvclaimbinder-sync-period=1s",
        )
        self._client("kube-scheduler", "--leader-elect=false")

    def _node(self) -> None:
        self._client(
            "kubelet",
            f"--config={self.conf}/kubelet.yaml --root-dir={self.home}/kubelet --cert-dir={self.pki}",
            f"--hostname-override={NODE} --node-ip={ADDRESS}",
        )
        self._client("kube-proxy", f"--hostname-override={NODE} --cluster-cidr={PODS} --proxy-mode=iptables --conntrack-max-per-core=0")
        self._run("coredns", f"-conf {self.conf}/Corefile")

    def _apply_dns(self) -> None:
        ports = {"dns": "UDP", "dns-tcp": "TCP"}
        metadata = {"name": "kube-dns", "namespace": "kube-system"}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "clusterIP": DNS_ADDRESS,
                "ports": [{"name": name, "port": 53, "protocol": protocol, "targetPort": 5353} for name, protocol in ports.items()],
            },
        }
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS]}],
            "ports": [{"name": name, "port": 5353, "protocol": protocol} for name, protocol in ports.items()],
        }
        done = self._kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, endpoints]}))
        if done.returncode:
            raise SystemExit(f"cluster: the DNS service was refused: {done.stderr}")

    def _forget_containers(self) -> None:
        """Containers that a killed cluster left in containerd's records."""
        for name in self._ctr("containers", "list", "-q").stdout.split():
            self._ctr("tasks", "delete", "--force", name)
            self._ctr("containers", "delete", name)

    def _unmount(self) -> None:
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{self.home}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)

    def _ready(self) -> bool:
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        return self._kubectl("get", "node", NODE, "-o", f"jsonpath={path}").stdout == "True"

    def _client(self, name: str, *options: str) -> None:
        self._run(name, f"--kubeconfig={self.home}/{name}.kubeconfig", *options)

    def _run(self, name: str, *options: str) -> None:
        """Starts a component; `options` are split at blanks."""
        program = self.bin / name
        command = [str(program) if program.exists() else name, *" ".join(options).split()]
        processes.start(self.home, name, command)

    def _kubectl(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "kubectl"), f"--kubeconfig={self.home}/admin.kubeconfig", "--request-timeout=10s", *arguments]
        return subprocess.run(command, input=text, check=False, capture_output=True, text=True)

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ctr", f"--address={self.socket}", "--namespace=k8s.io", *arguments], check=False, capture_output=True, text=True)


_CONTAINERD = """version = 2
root = "{home}/containerd/root"
state = "{home}/containerd/state"
[grpc]
  address = "{home}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  netns_mounts_under_state_dir = true
  # where root lacks CAP_SYS_RESOURCE, a lower score cannot be set
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    Root = "{home}/containerd/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{conf}/cni"
"""

_COREFILE = """.:5353 {{
  bind {address}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {home}/admin.kubeconfig octavo
    pods insecure
  }}
  cache 5
}}
"""


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _check(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"cluster: {' '.join(command)}: {done.stderr.strip()}")


def _until(what: str, seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"cluster: not so after {seconds:.0f} s: {what}; the logs of its components are in HOME/run")
        time.sleep(0.2)


def _remove_rules() -> None:
    """kube-proxy's and kubelet's, whose chains are all called KUBE-…"""
    for tool in ("iptables", "ip6tables"):
        if shutil.which(tool):
            rules = subprocess.run([f"{tool}-save"], check=False, capture_output=True, text=True).stdout
            others = "".join(line for line in rules.splitlines(keepends=True) if "KUBE-" not in line)
            if others != rules:
                subprocess.run([f"{tool}-restore"], input=others, check=False, capture_output=True, text=True)


def _remove_cgroups() -> None:
    root = Path("/sys/fs/cgroup")
    for pods in (root / "kubepods", *root.glob("*/kubepods")):
        for folder, _, _ in os.walk(pods, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["start", home, kube, coredns]:
            Cluster(Path(home)).start(Path(kube), Path(coredns))
        case ["stop", home]:
            Cluster(Path(home)).stop()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
