"""The manifests under config/kubernetes: by the schemas of Kubernetes' API, and in what they promise each other and Tagstone."""

from __future__ import annotations

import copy
import json
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import cel
import jsonpatch
import kubernetes_validate
import pytest
import yaml

from proxy.configuration import Configuration, load
from proxy.services.workloads import PODS, Way
from proxy.web.admission import PATHS
from proxy.worker import Worker
from tests.simulator.kubernetes import pod, response, review
from tests.tools import need

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "config" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
#: The first version in which matchConditions are there for everybody, and the newest that the schemas know.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
KUSTOMIZE = "kustomize.config.k8s.io/v1beta1"
CERT_MANAGER = "cert-manager.io/v1"
Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """What stands in a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


FILES = sorted(FOLDER.rglob("*.yaml"))
ALL = [(path, document) for path in FILES for document in documents(path)]


def the(kind: str) -> Object:
    """The one manifest of a kind."""
    (found,) = [document for _, document in ALL if document["kind"] == kind]
    return copy.deepcopy(found)


def webhooks() -> list[Object]:
    """Both webhooks: mutating, validating."""
    found = [the(f"{kind}WebhookConfiguration")["webhooks"] for kind in ("Mutating", "Validating")]
    assert [len(each) for each in found] == [1, 1]
    return [each[0] for each in found]


# -- schemas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_the_api_takes(version: str) -> None:
    """Strictly: no key that it does not know, of the oldest and the newest version."""
    checked = 0
    for path, document in ALL:
        if document["apiVersion"] not in {KUSTOMIZE, CERT_MANAGER}:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{path.name}: {'.'.join(map(str, error.path))}: {error.message}")
            checked += 1
    assert checked == 10


def test_a_wrong_manifest_would_be_found() -> None:
    """The check above sees a misspelt key and a wrong type."""
    for change in ({"failurepolicy": "Fail"}, {"timeoutSeconds": "20"}):
        wrong = the("ValidatingWebhookConfiguration")
        wrong["webhooks"][0] |= change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_manifest_is_in_a_kustomization() -> None:
    """And every kustomization names what is there."""
    for path in FOLDER.rglob("kustomization.yaml"):
        (found,) = documents(path)
        assert (found["apiVersion"], found["kind"]) == (KUSTOMIZE, "Kustomization")
        named = {name for name in found["resources"] if not name.startswith("..")}
        assert named == {other.name for other in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert all((path.parent / name / "kustomization.yaml").is_file() for name in found["resources"] if name.startswith(".."))
    (main,) = documents(FOLDER / "kustomization.yaml")
    images = [each["name"] for each in main["images"]]
    container = the("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert [container["image"].partition(":")[0]] == images


def test_all_of_it_is_in_one_namespace() -> None:
    """Whatever can be in one."""
    loose = {"Namespace", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "Kustomization"}
    assert {document["metadata"]["namespace"] for _, document in ALL if document["kind"] not in loose} == {"tagstone"}
    assert the("Namespace")["metadata"]["name"] == "tagstone"
    assert the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# -- the webhooks ---------------------------------------------------------------------------------------------------


def test_webhooks_lead_to_tagstone_and_fail_closed() -> None:
    """To paths that are served, of a Service that is there; and nothing else but a verdict lets anything through."""
    service = the("Service")
    ports = [port["port"] for port in service["spec"]["ports"]]
    for webhook, way in zip(webhooks(), (Way.MUTATE, Way.VALIDATE), strict=True):
        target = webhook["clientConfig"]["service"]
        assert PATHS[target["path"]] is way
        assert (target["name"], target["namespace"]) == (service["metadata"]["name"], service["metadata"]["namespace"])
        assert target["port"] in ports
        assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Fail", "NoneOnDryRun")
        assert webhook["admissionReviewVersions"] == ["v1"]
        assert webhook["matchPolicy"] == "Equivalent"
        assert 5 <= webhook["timeoutSeconds"] <= 30
        assert len(webhook["name"].split(".")) >= 3
    assert webhooks()[0]["reinvocationPolicy"] == "IfNeeded"


def test_webhooks_are_asked_about_every_kind_that_has_a_pod() -> None:
    """The same for both; and about nothing else, which would be refused."""
    for webhook in webhooks():
        asked = set()
        for rule in webhook["rules"]:
            assert (rule["apiVersions"], rule["operations"]) == (["v1"], ["CREATE", "UPDATE"])
            asked |= {(group, resource) for group in rule["apiGroups"] for resource in rule["resources"]}
        kinds = {(group, kind.lower() + "s") for group, kind in PODS}
        assert asked == kinds | {("", "pods/ephemeralcontainers")}


def test_what_must_start_before_tagstone_is_exempt() -> None:
    """Its own namespace, and that of the network and of names."""
    for webhook in webhooks():
        (expression,) = webhook["namespaceSelector"]["matchExpressions"]
        assert expression == {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["tagstone", "kube-system"]}


@pytest.mark.parametrize(
    ("user", "operation", "resource", "sent"),
    [
        ("system:node:worker-1", "CREATE", "pods", False),
        ("system:node:worker-1", "UPDATE", "pods", True),
        ("system:node:worker-1", "CREATE", "jobs", True),
        ("system:serviceaccount:kube-system:replicaset-controller", "CREATE", "pods", True),
        ("alice", "CREATE", "pods", True),
    ],
)
def test_mirror_pods_are_left_out(user: str, operation: str, resource: str, sent: bool) -> None:
    """By who makes them: their annotation may be written by anybody."""
    request = {"operation": operation, "resource": {"resource": resource}, "userInfo": {"username": user}}
    for webhook in webhooks():
        (condition,) = webhook["matchConditions"]
        assert cel.evaluate(condition["expression"], {"request": request}) is sent


def test_cert_manager_tells_the_api_server() -> None:
    """The patches fit both webhooks; what they name is the certificate; its namespace does not wait for itself."""
    (overlay,) = documents(FOLDER / "cert-manager" / "kustomization.yaml")
    (each,) = overlay["patches"]
    certificate, issuer = the("Certificate"), the("Issuer")
    named = f"{certificate['metadata']['namespace']}/{certificate['metadata']['name']}"
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        before = the(kind)
        group, _, version = before["apiVersion"].partition("/")
        assert each["target"] == {"group": group, "version": version}
        after = jsonpatch.apply_patch(before, yaml.safe_load(each["patch"]))
        kubernetes_validate.validate(after, VERSIONS[-1], strict=True)
        assert after["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": named}
        (expression,) = after["webhooks"][0]["namespaceSelector"]["matchExpressions"]
        assert expression["values"] == ["tagstone", "kube-system", "cert-manager"]
    assert certificate["apiVersion"] == issuer["apiVersion"] == CERT_MANAGER
    spec = certificate["spec"]
    assert spec.keys() == {"secretName", "issuerRef", "dnsNames", "privateKey", "usages"}
    assert spec["issuerRef"] == {"kind": "Issuer", "name": issuer["metadata"]["name"]}
    assert "tagstone.tagstone.svc" in spec["dnsNames"]
    volumes = the("Deployment")["spec"]["template"]["spec"]["volumes"]
    assert spec["secretName"] in [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]


# -- the pod --------------------------------------------------------------------------------------------------------


def test_the_pod_is_confined() -> None:
    """As the restricted standard wants it, and without a token for the API server; the image's own user."""
    spec = the("Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    security, own = spec["securityContext"], container["securityContext"]
    assert security["runAsNonRoot"] is True
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in (ROOT / "Dockerfile").read_text()
    assert security["fsGroup"] == security["runAsGroup"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is the("ServiceAccount")["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_there_is_one_and_it_is_replaced() -> None:
    """SQLite on a volume of one node; a budget that would keep it there for ever is none."""
    spec = the("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert the("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert the("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_selectors_mean_this_pod() -> None:
    """Service, budget, network policy and the Deployment itself."""
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert the("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert the("Service")["spec"]["selector"] == labels
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_names_that_manifests_use_are_there() -> None:
    """Volumes of claims and configuration, ports of probes and of the Service, the service account."""
    spec = the("Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    ports = {port["name"] for port in container["ports"]}
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["port"] for probe in probes} | {port["targetPort"] for port in the("Service")["spec"]["ports"]} == ports
    assert {probe["path"] for probe in probes} == {"/healthz", "/readyz"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    volumes = {name: volume for volume in spec["volumes"] for name in volume}
    assert (
        volumes["persistentVolumeClaim"]["persistentVolumeClaim"]["claimName"] == the("PersistentVolumeClaim")["metadata"]["name"]
    )
    assert volumes["configMap"]["configMap"]["name"] == the("ConfigMap")["metadata"]["name"]
    assert spec["serviceAccountName"] == the("ServiceAccount")["metadata"]["name"]
    allowed = {port["port"] for rule in the("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == ports


def test_networks_of_machines_are_out_of_reach() -> None:
    """Private and link-local addresses, and with them the metadata service of clouds."""
    (to,) = [rule["to"] for rule in the("NetworkPolicy")["spec"]["egress"] if any("ipBlock" in peer for peer in rule["to"])]
    kept = {network for peer in to for network in peer["ipBlock"]["except"]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"} <= kept


# -- the configuration ----------------------------------------------------------------------------------------------


def certificate(folder: Path) -> None:
    """What the page says about certificates, done."""
    (command,) = [line for line in PAGE.splitlines() if line.startswith("openssl ")]
    subprocess.run((need("bash"), "-c", command), cwd=folder, check=True, capture_output=True)


def configuration(folder: Path, **other: str) -> Configuration:
    """The ConfigMap's file, with the folders of the pod under another; ``other`` replaces values."""
    ((name, text),) = the("ConfigMap")["data"].items()
    spec = the("Deployment")["spec"]["template"]["spec"]["containers"][0]
    mounted = "|".join(re.escape(mount["mountPath"]) for mount in spec["volumeMounts"])
    text = re.sub(rf"(?<= )({mounted})\b", lambda match: f"{folder}{match[1]}", text)
    for before, after in other.items():
        assert before in text
        text = text.replace(before, after)
    assert spec["args"] == ["serve", "--config", f"/etc/tagstone/{name}"]
    (folder / "tls").mkdir()
    certificate(folder / "tls")
    (folder / name).write_text(text)
    return load(folder / name)


def test_the_configuration_checks_out(tmp_path: Path) -> None:
    """Without a warning; it listens where the ports of the pod are, and keeps its state on the volume."""
    found = configuration(tmp_path)
    assert found.warnings == ()
    assert found.reviews is not None
    spec = the("Deployment")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    assert ports == {"registry": found.listen.port, "admin": found.admin_listen.port}
    assert not found.listen.loopback
    assert found.settings.data_dir == tmp_path / "data"
    assert found.settings.tls is not None
    assert found.settings.tls.certificate.parent == tmp_path / "tls"
    assert found.settings.admin.tls == found.settings.tls
    assert spec["terminationGracePeriodSeconds"] > found.settings.limits.drain_timeout


async def test_the_page_leads_to_webhooks_that_answer(tmp_path: Path) -> None:
    """Its certificate, its bundle and the example's configuration: an API server that was told so believes the answer."""
    other = {"0.0.0.0:5000": "127.0.0.1:0", "0.0.0.0:5001": "127.0.0.1:0", "extends: well-known": "trust: {refresh: never}"}
    found = configuration(tmp_path, **other)
    (line,) = [line for line in PAGE.splitlines() if line.startswith("kubectl kustomize ")]
    text = "\n---\n".join(yaml.safe_dump(the(f"{kind}WebhookConfiguration")) for kind in ("Mutating", "Validating"))
    told = subprocess.run(
        (need("bash"), "-c", line.split(" | ")[1]), cwd=tmp_path / "tls", input=text, check=True, capture_output=True, text=True
    ).stdout
    worker = Worker(found, tmp_path / "data")
    await worker.start()
    try:
        for configured in yaml.safe_load_all(told):
            kubernetes_validate.validate(configured, VERSIONS[-1], strict=True)
            client = configured["webhooks"][0]["clientConfig"]
            context = ssl.create_default_context(cadata=_pem(client["caBundle"]))
            service = client["service"]
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"https://127.0.0.1:{worker.ports[0]}{service['path']}?timeout=10s",
                    json=review(pod("gcr.io/other/app")),
                    ssl=context,
                    server_hostname=f"{service['name']}.{service['namespace']}.svc",
                ) as answer,
            ):
                assert answer.status == 200
                message = response(await answer.read())["status"]["message"]
                assert "the registry gcr.io is not configured here" in message
    finally:
        await worker.close()


def _pem(bundle: str) -> str:
    import base64

    return base64.b64decode(bundle, validate=True).decode()


def test_the_page_names_what_is_there() -> None:
    """Folders that are applied, objects that are deleted, examples that are YAML."""
    for path in re.findall(r"(?:-k|-f|kustomize) (config/\S+)", PAGE):
        assert (ROOT / path).exists(), path
    names = {f"{document['kind'].lower()}/{document['metadata']['name']}" for _, document in ALL if "metadata" in document}
    (line,) = [line for line in PAGE.splitlines() if line.startswith("kubectl delete ")]
    assert set(line.split()[2:]) <= names
    for example in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        assert json.dumps(yaml.safe_load(example))
