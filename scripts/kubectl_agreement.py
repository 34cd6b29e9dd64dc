#!/usr/bin/env python3
"""Run one script of kubectl commands on the played Kubernetes API and on a real one, and compare the outcomes.

    python scripts/kubectl_agreement.py                        the played one alone, against what is recorded here
    VCCI_TEST_KUBECONFIG=file python scripts/kubectl_agreement.py    both, and each against the other

Each step says what its output must show, so that either plane alone proves something; with both, exit
codes and outputs have to be equal once names, ages, addresses and the like are taken out. Where the two
may differ, the step says why (``differs``), and only the exit codes are compared. Everything happens in
a namespace of its own, which is deleted at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sandbox.service import Sandbox, wait_until
from sandbox.services.kube import Kube

KUBECTL = Path(sys.executable).parent / "kubectl"
_TIMEOUT = 90


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    :param command: arguments of kubectl; ``NS`` stands for the namespace.
    :param shows: regular expressions, each of which the output must match somewhere.
    :param given: what is passed on standard input.
    :param code: expected exit code.
    :param differs: why the outputs of the two planes may differ; empty when they may not.
    :param reduce: takes out of the output what is compared, where that is not all of it.
    :param patient: repeat for some seconds, until the output shows what it must.
    """

    command: str
    shows: tuple[str, ...] = ()
    given: Any = None
    code: int = 0
    differs: str = ""
    reduce: Callable[[str], str] | None = None
    patient: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step gave on a plane."""

    step: Step
    code: int
    text: str


# What is taken out of outputs: expression → what stands for it.
_VOLATILE = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UID"),
    (r"\b\d{4}-\d\d-\d\dT[\d:.]+Z\b", "TIME"),
    (r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} [\d:]+ \+0000", "TIME"),
    (r"\b(web|stuck|done)-[a-z0-9]{8,10}-[a-z0-9]{5}\b", r"\1-HASH-POD"),
    (r"\b(web|stuck|done)-[a-z0-9]{8,10}\b", r"\1-HASH"),
    (r"\b(done|failing)-[a-z0-9]{5}\b", r"\1-POD"),
    (r"pod-template-hash=[a-z0-9]+", "pod-template-hash=HASH"),
    (r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS"),
    (r"\b(sim|node)-\d\b", "NODE"),
    (r"\b(\d+d)?(\d+h)?(\d+m)?\d+s\b", "AGE"),
    (r"\b\d+m\b", "CPU"),
    (r"\b\d+Mi\b", "MEMORY"),
    (r"\b\d+%( |$)", r"SHARE\1"),
    (r"INFO (sim|web|done) up", "INFO CONTAINER up"),
    (r"[ \t]+", " "),
)


def normalise(text: str, namespace: str) -> str:
    """Return an output without what differs from run to run; lines of equal content count once."""
    text = text.replace(namespace, "NS")
    for pattern, stand_in in _VOLATILE:
        text = re.sub(pattern, stand_in, text, flags=re.MULTILINE)
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(lines)


def _without_events(text: str) -> str:
    return text.partition("Events:")[0]


def _heading(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _distinct(text: str) -> str:
    return "\n".join(dict.fromkeys(text.splitlines()))


_KEPT_META = ("name", "namespace", "labels", "annotations", "generation")


def _object(text: str) -> str:
    """Return an object without what the server counts, stamps or generates."""
    obj = json.loads(text)
    obj["metadata"] = {key: value for key, value in obj["metadata"].items() if key in _KEPT_META}
    obj["metadata"].get("annotations", {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    for condition in obj.get("status", {}).get("conditions", ()):
        condition.pop("lastUpdateTime", None)
        condition.pop("lastTransitionTime", None)
    return json.dumps(obj, indent=1, sort_keys=True)


# The script ----------------------------------------------------------------------------------------

_ENV = [{"name": "A", "value": "1"}]
_ONE_MORE = {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": [{"name": "B", "value": "2"}]}]}}}}
_IMAGE = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "vcci/web:v4"}]
_WRONG_TEST = [{"op": "test", "path": "/spec/replicas", "value": 99}, *_IMAGE]


def _deployment(name: str, image: str, **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": name, "image": image, "env": _ENV}]},
    }
    selector = {"matchLabels": {"app": name}}
    full = {"replicas": 2, "selector": selector, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": full}


def _job(name: str, image: str) -> dict[str, Any]:
    spec = {"restartPolicy": "Never", "containers": [{"name": name, "image": image}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": spec}},
    }


def _lease(holder: str) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 60}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "change-lock"}, "spec": spec}


_CERTIFICATE = {
    "apiVersion": "cert-manager.io/v1",
    "kind": "Certificate",
    "metadata": {"name": "tls"},
    "spec": {"secretName": "tls", "dnsNames": ["a.example"], "issuerRef": {"name": "x", "kind": "ClusterIssuer"}},
}
_UNSELECTED = _deployment("odd", "vcci/odd:v1", selector={"matchLabels": {"app": "other"}})
_STALE = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "settings", "resourceVersion": "1"},
    "data": {"a": "9"},
}
_TIMING = "there may be nothing left to wait for"
_NEWER = "columns and words of this table have changed since the real plane's version"

STEPS: tuple[Step, ...] = (
    Step("create namespace NS", ("namespace/NS created",)),
    Step("create namespace NS", (r"\(AlreadyExists\): namespaces \"NS\" already exists",), code=1),
    Step("auth can-i delete pods", ("^yes$",)),
    # A Deployment, rolled out and looked at
    Step("apply -f -", ("deployment.apps/web created",), given=_deployment("web", "vcci/web:v1")),
    Step(
        "rollout status deployment/web --timeout=60s", ("successfully rolled out",), reduce=lambda t: t.splitlines()[-1]
    ),
    Step("apply -f -", ("deployment.apps/web unchanged",), given=_deployment("web", "vcci/web:v1")),
    Step("get deployments", (r"^NAME READY UP-TO-DATE AVAILABLE AGE$", r"^web 2/2 2 2 AGE$")),
    Step("get deployments -o wide", (r"CONTAINERS IMAGES SELECTOR$", r"web vcci/web:v1 app=web$")),
    Step("get deployment web -o json", (r'"availableReplicas": 2', r'"maxSurge": "25%"'), reduce=_object),
    Step("get replicasets -o wide", (r"^web-HASH 2 2 2 AGE web vcci/web:v1 app=web,pod-template-hash=HASH$",)),
    Step("get pods", (r"^NAME READY STATUS RESTARTS AGE$", r"^web-HASH-POD 1/1 Running 0 AGE$")),
    Step("get pods -o wide", (r"IP NODE NOMINATED NODE READINESS GATES$", r"0 AGE ADDRESS NODE <none> <none>$")),
    Step("get pods -l app=web,app!=other -o name", (r"^pod/web-HASH-POD$",)),
    Step("get pods -l app=nothing", ("No resources found in NS namespace",)),
    Step("get pods --field-selector=status.phase=Running -o name", (r"^pod/web-HASH-POD$",)),
    Step("get pods --field-selector=spec.colour=red", ("field label not supported: spec.colour",), code=1),
    Step("get nodes -o wide", (r"^NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP",), reduce=_heading),
    Step(
        "describe deployment web",
        (r"Replicas: 2 desired \| 2 updated \| 2 total", "MinimumReplicasAvailable"),
        reduce=_without_events,
    ),
    Step("wait --for=condition=Available deployment/web --timeout=30s", ("deployment.apps/web condition met",)),
    Step("get deployment none", (r'\(NotFound\): deployments.apps "none" not found',), code=1),
    Step("get nonsense", ("doesn't have a resource type",), code=1),
    # Releases, their history, and back
    Step("set image deployment/web web=vcci/web:v2", ("deployment.apps/web image updated",)),
    Step("annotate deployment web kubernetes.io/change-cause=second", ("deployment.apps/web annotated",)),
    Step(
        "rollout status deployment/web --timeout=60s", ("successfully rolled out",), reduce=lambda t: t.splitlines()[-1]
    ),
    Step("rollout history deployment/web", (r"^1 <none>$", r"^2 second$")),
    Step("rollout history deployment/web --revision=2", ("Image: vcci/web:v2",)),
    Step("rollout undo deployment/web", ("deployment.apps/web rolled back",)),
    Step(
        "rollout status deployment/web --timeout=60s", ("successfully rolled out",), reduce=lambda t: t.splitlines()[-1]
    ),
    Step("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", ("^vcci/web:v1$",)),
    Step(
        "rollout history deployment/web", (r"^2 second$", r"^3$"), reduce=lambda t: re.sub(r"^3 .*", "3", t, flags=re.M)
    ),
    Step("rollout undo deployment/web --to-revision=9", ("unable to find specified revision 9",), code=1),
    Step("rollout restart deployment/web", ("deployment.apps/web restarted",)),
    Step(
        "rollout status deployment/web --timeout=60s", ("successfully rolled out",), reduce=lambda t: t.splitlines()[-1]
    ),
    Step("rollout pause deployment/web", ("deployment.apps/web paused",)),
    Step("rollout resume deployment/web", ("deployment.apps/web resumed",)),
    # Scaling
    Step("scale deployment/web --replicas=3", ("deployment.apps/web scaled",)),
    Step("wait --for=jsonpath={.status.availableReplicas}=3 deployment/web --timeout=30s", ("condition met",)),
    Step("scale deployment/web --current-replicas=7 --replicas=1", ("Expected replicas to be 7, was 3",), code=1),
    Step("scale deployment/web --replicas=2", ("deployment.apps/web scaled",)),
    Step("wait --for=jsonpath={.status.replicas}=2 deployment/web --timeout=30s", ("condition met",)),
    Step("autoscale deployment web --min=2 --max=5 --cpu=80%", ("horizontalpodautoscaler.autoscaling/web autoscaled",)),
    Step(
        "get hpa",
        (r"^NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE$", r"Deployment/web .*/SHARE 2 5"),
        differs=_NEWER,
    ),
    Step("delete hpa web", ('horizontalpodautoscaler.autoscaling "web" deleted',)),
    # Three patch types
    Step(f"patch deployment web --type=strategic -p {json.dumps(_ONE_MORE)}", ("deployment.apps/web patched",)),
    Step("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[*].name}", ("^B A$",)),
    Step(f"patch deployment web --type=json -p {json.dumps(_IMAGE)}", ("deployment.apps/web patched",)),
    Step(
        f"patch deployment web --type=json -p {json.dumps(_WRONG_TEST)}",
        (r"\(Invalid\)|is invalid",),
        code=1,
        differs="wording of Go's library",
    ),
    Step(
        'patch deployment web --type=merge -p {"metadata":{"labels":{"tier":"front"}}}',
        ("deployment.apps/web patched",),
    ),
    Step(
        "rollout status deployment/web --timeout=60s", ("successfully rolled out",), reduce=lambda t: t.splitlines()[-1]
    ),
    Step("get deployment web --show-labels --no-headers", (r"tier=front$",)),
    # A release that cannot work
    Step(
        "apply -f -",
        ("deployment.apps/stuck created",),
        given=_deployment("stuck", "vcci/stuck:bad", progressDeadlineSeconds=3),
    ),
    Step(
        "rollout status deployment/stuck --timeout=60s",
        ("exceeded its progress deadline",),
        code=1,
        reduce=lambda t: t.splitlines()[-1],
    ),
    Step("get pods -l app=stuck", (r"^stuck-HASH-POD 0/1 ImagePullBackOff 0 AGE$",)),
    Step("delete deployment stuck", ('deployment.apps "stuck" deleted',)),
    Step("wait --for=delete pods -l app=stuck --timeout=30s", differs=_TIMING),
    Step("get pods -l app=stuck", ("No resources found",)),
    # Logs and usage
    Step("logs deployment/web --tail=1", ("up$",), differs="it says which of the pods it took"),
    Step("logs -l app=web --since=1h", ("^INFO CONTAINER up$",), reduce=_distinct),
    Step("logs -l app=web --tail=1 --prefix", (r"^\[pod/web-HASH-POD/web\] INFO CONTAINER up$",)),
    Step("logs none", (r'\(NotFound\): pods "none" not found',), code=1),
    Step("logs deployment/web -c nobody", ("container nobody is not valid for pod web-HASH-POD",), code=1),
    Step(
        "top nodes",
        (r"^NAME CPU\(cores\) CPU\(%\) MEMORY\(bytes\) MEMORY\(%\)$", "^NODE CPU SHARE MEMORY SHARE$"),
        reduce=_distinct,
    ),
    Step(
        "top pods -l app=web", (r"^NAME CPU\(cores\) MEMORY\(bytes\)$", "^web-HASH-POD CPU MEMORY$"), reduce=_distinct
    ),
    # Jobs
    Step("create job done --image=vcci/tools:v1 -- true", ("job.batch/done created",)),
    Step("wait --for=condition=Complete job/done --timeout=30s", ("job.batch/done condition met",)),
    Step("get jobs", ("done .*1/1",), differs=_NEWER),
    Step("get pods -l job-name=done", (r"^done-POD 0/1 Completed 0 AGE$",)),
    Step("logs job/done", differs="the real plane's nodes are simulated and run nothing"),
    Step("apply -f -", ("job.batch/failing created",), given=_job("failing", "vcci/tools:fail")),
    Step("wait --for=condition=Failed job/failing --timeout=30s", ("job.batch/failing condition met",)),
    Step("get job failing -o jsonpath={.status.conditions[?(@.type=='Failed')].reason}", ("^BackoffLimitExceeded$",)),
    Step("delete job done failing", ('job.batch "done" deleted', 'job.batch "failing" deleted')),
    Step("wait --for=delete pods -l job-name=done --timeout=30s", differs=_TIMING),
    Step("get pods -l job-name -o name", ("^$",), patient=True),
    # The rest of the furniture
    Step("create configmap settings --from-literal=a=1", ("configmap/settings created",)),
    Step("create configmap settings --from-literal=a=1", (r'configmaps "settings" already exists',), code=1),
    Step("replace -f -", (r"\(Conflict\)|the object has been modified",), given=_STALE, code=1),
    Step("get configmaps", (r"^NAME DATA AGE$", r"^kube-root-ca.crt 1 AGE$", r"^settings 1 AGE$")),
    Step("create secret generic password --from-literal=p=hush", ("secret/password created",)),
    Step("get secret password", (r"^password Opaque 1 AGE$",)),
    Step("get secret password -o jsonpath={.data.p}", ("^aHVzaA==$",)),
    Step("apply -f -", ("lease.coordination.k8s.io/change-lock created",), given=_lease("run-1")),
    Step("apply -f -", ("lease.coordination.k8s.io/change-lock configured",), given=_lease("run-2")),
    Step("get leases", (r"^NAME HOLDER AGE$", r"^change-lock run-2 AGE$")),
    Step("apply -f -", ("certificate.cert-manager.io/tls created",), given=_CERTIFICATE),
    Step('patch certificate tls --type=merge -p {"spec":{"dnsNames":["b.example"]}}', ("tls patched",)),
    Step("get certificate tls -o jsonpath={.spec.dnsNames[*]}", ("^b.example$",)),
    Step(
        "create -f -",
        (r"is invalid: ", "`selector` does not match template `labels`"),
        given=_UNSELECTED,
        code=1,
        differs=_NEWER,
    ),
    Step(
        "apply --dry-run=server -f -",
        (r"deployment.apps/dry created \(server dry run\)",),
        given=_deployment("dry", "vcci/dry:v1"),
    ),
    Step("get deployment dry", ("not found",), code=1),
    Step("create serviceaccount robot", ("serviceaccount/robot created",)),
    Step("create token robot", (r"^\S{16,}$",), differs="a token"),
    Step("label configmap settings kept=yes", ("configmap/settings labeled",)),
    Step("delete configmap -l kept=yes", ('configmap "settings" deleted',)),
    # The end
    Step("delete deployment web", ('deployment.apps "web" deleted',)),
    Step("wait --for=delete pods -l app=web --timeout=40s", differs=_TIMING),
    Step("get replicasets", ("No resources found",), patient=True),
)


# Running it ----------------------------------------------------------------------------------------


class Plane:
    """One Kubernetes API with a namespace for the script.

    :param name: how it is called in messages: played or real.
    """

    def __init__(self, name: str, kubeconfig: Path) -> None:
        self.name, self.kubeconfig = name, kubeconfig
        self.namespace = f"agreement-{secrets.token_hex(3)}"
        self._made: list[str] = []
        self._cache = tempfile.TemporaryDirectory()

    def kubectl(self, argv: list[str], given: Any = None) -> tuple[int, str]:
        """Run kubectl and return its exit code and all its output."""
        options = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self._cache.name}", "-n", self.namespace]
        done = subprocess.run(
            [str(KUBECTL), *options, *argv],
            input=json.dumps(given) if given is not None else None,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def run(self, step: Step) -> Outcome:
        """Run a step; a patient one until it shows what it must, for 20 s at most."""
        if step.command.startswith("top ") and self.name == "real":
            self._pretend_usage()
        argv = [part.replace("NS", self.namespace) for part in _split(step.command)]
        until = time.monotonic() + (20 if step.patient else 0)
        while True:
            code, text = self.kubectl(argv, step.given)
            text = normalise(text, self.namespace)
            outcome = Outcome(step, code, step.reduce(text) if step.reduce and code == step.code else text)
            if not mistakes(outcome) or time.monotonic() > until:
                return outcome
            time.sleep(0.5)

    def _pretend_usage(self) -> None:
        """Say what nodes and pods use: there metrics.k8s.io is a custom resource that nobody fills."""
        for kind, plural, where in (("NodeMetrics", "nodes", "nodes"), ("PodMetrics", "pods", "pods")):
            _, listed = self.kubectl(["get", where, "-o", "json"])
            for item in json.loads(listed)["items"]:
                meta = {
                    key: item["metadata"][key] for key in ("name", "namespace", "labels") if key in item["metadata"]
                }
                usage = {"cpu": "120m", "memory": "200Mi"}
                body: dict[str, Any] = {"apiVersion": "metrics.k8s.io/v1beta1", "kind": kind, "metadata": meta}
                body |= {"timestamp": "2026-01-01T00:00:00Z", "window": "30s"}
                body |= {"usage": usage} if plural == "nodes" else {"containers": [{"name": "c", "usage": usage}]}
                code, _ = self.kubectl(["create", "-f", "-"], body)
                if code == 0 and plural == "nodes":
                    self._made.append(meta["name"])

    def play(self) -> list[Outcome]:
        """Run all steps and clean up."""
        try:
            return [self.run(step) for step in STEPS]
        finally:
            self.kubectl(["delete", "namespace", self.namespace, "--wait=false"])
            if self._made:
                self.kubectl(["delete", "nodes.metrics.k8s.io", *self._made])


def _split(command: str) -> list[str]:
    """Split a command at blanks; what begins with a brace or bracket is one argument to the end."""
    head, mark, tail = command.partition(" -p ")
    return [*head.split(), "-p", tail] if mark else head.split()


def mistakes(outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome by itself."""
    step = outcome.step
    found = []
    if outcome.code != step.code:
        found.append(f"exit code {outcome.code}, expected {step.code}")
    found += [f"does not show {p!r}" for p in step.shows if not re.search(p, outcome.text, re.MULTILINE)]
    return found


def disagreements(played: list[Outcome], real: list[Outcome]) -> list[str]:
    """Return where the planes differ, step by step, as texts."""
    found = []
    for one, other in zip(played, real, strict=True):
        if one.code != other.code:
            found.append(f"kubectl {one.step.command}\n  exit codes differ: played {one.code}, real {other.code}")
        elif one.text != other.text and not one.step.differs:
            lines = difflib.unified_diff(
                other.text.splitlines(), one.text.splitlines(), "real", "played", lineterm="", n=1
            )
            found.append("\n  ".join([f"kubectl {one.step.command}", *lines]))
    return found


def report(name: str, outcomes: list[Outcome]) -> list[str]:
    """Return what is wrong on a plane by itself, as texts."""
    texts = []
    for outcome in outcomes:
        wrong = mistakes(outcome)
        if wrong:
            texts.append(
                f"[{name}] kubectl {outcome.step.command}\n  " + "\n  ".join(wrong) + f"\n  output: {outcome.text}"
            )
    return texts


def _played(folder: Path) -> tuple[Sandbox, Kube]:
    sandbox, service = Sandbox(folder), Kube()
    service.start(sandbox)
    wait_until("the played Kubernetes API", lambda: service.ready(sandbox))
    return sandbox, service


def play(real: Path | None) -> tuple[list[Plane], list[list[Outcome]]]:
    """Run the script on a played plane made for it and, at the same time, on the real one if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox, service = _played(Path(folder))
        try:
            planes = [Plane("played", sandbox.folder / "kube" / "kubeconfig")]
            planes += [Plane("real", real)] if real else []
            with ThreadPoolExecutor(len(planes)) as pool:
                return planes, list(pool.map(Plane.play, planes))
        finally:
            service.stop(sandbox)


def main() -> int:
    """Run the script on the played plane, and on the real one if there is one; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", default=os.environ.get("VCCI_TEST_KUBECONFIG"), help="kubeconfig of a real cluster")
    args = parser.parse_args()
    planes, outcomes = play(Path(args.real) if args.real else None)
    wrong = [text for plane, found in zip(planes, outcomes, strict=True) for text in report(plane.name, found)]
    wrong += disagreements(*outcomes) if len(outcomes) == 2 else []
    print("\n".join(wrong))
    names = " and ".join(plane.name for plane in planes)
    excepted = sum(bool(step.differs) for step in STEPS)
    print(f"{len(STEPS)} steps on {names} ({excepted} compared by exit code only): {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
