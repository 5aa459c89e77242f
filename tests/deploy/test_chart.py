"""The chart: it renders, fits Kubernetes's schemas, refuses what it doesn't know, and says what the gate's exit codes mean."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from gate.errors import ExitCode
from tests.conftest import ROOT
from tests.deploy.chart import (
    CHART,
    CI_VALUES,
    DIGEST,
    GATE,
    GUARD,
    Object,
    checkov,
    objects,
    of_kind,
    pod_of,
    rendered,
    values_of,
)
from tests.monitoring.programs import promtool

KUBERNETES = ("1.30", "1.33", "1.37")
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which Kubernetes's own schemas don't hold."""
WITHOUT_CPU_LIMIT = "CKV_K8S_11"
"""A CPU limit throttles a guard that has the node to itself; its request is what it is promised."""
by_file = pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)


def test_helm_finds_no_fault() -> None:
    """Helm's strict lint has nothing above information, with the default values and with each of ci/."""
    for values in [None, *map(values_of, CI_VALUES)]:
        report = helm_python.lint(str(CHART), values, strict=True)
        assert not report["errors"]
        assert [m["error"] for m in report["messages"] if m["severity"] > 1] == []


@by_file
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_fits_kubernetes(path: Path, version: str) -> None:
    """Each object that is not the Prometheus operator's passes the strict schemas of that version."""
    for found in objects(values_of(path)):
        if found["kind"] in FOREIGN:
            assert found["apiVersion"] == "monitoring.coreos.com/v1"
        else:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_schemas_catch_a_wrong_field() -> None:
    """The check above is one that fails: a misspelt field of a Deployment is refused."""
    broken = copy.deepcopy(of_kind({"guard": GUARD}, "Deployment"))
    broken["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(broken, KUBERNETES[0], strict=True)


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """No check fails, save the one whose reason stands above, and the two that the test pod's annotations give reasons for."""
    for path in CI_VALUES:
        text = yaml.safe_dump_all(objects(values_of(path)))
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = checkov("kubernetes", tmp_path, skip=WITHOUT_CPU_LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checkov_catches_a_privileged_container(tmp_path: Path) -> None:
    """The check above is one that fails."""
    broken = copy.deepcopy(of_kind({"guard": GUARD}, "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump(broken), encoding="utf-8")
    done = checkov("kubernetes", file, skip=WITHOUT_CPU_LIMIT)
    assert done.returncode != 0
    assert "CKV_K8S_16" in done.stdout


@by_file
def test_every_pod_is_locked_down(path: Path) -> None:
    """No token, no root, a read-only root file system, no capability, and every image by its digest."""
    pods = [(o["metadata"]["name"], pod) for o in objects(values_of(path)) if (pod := pod_of(o))]
    assert pods
    for name, pod in pods:
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], name
            assert not security["allowPrivilegeEscalation"], name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), name
            assert "memory" in container["resources"]["limits"], name


def test_the_schema_refuses_unknown_keys_at_every_level() -> None:
    """Each object of values.yaml refuses a key that it does not have; Kubernetes's own objects take what Kubernetes does."""
    free = {"settings", "resources", "mergeResources", "nodeSelector", "affinity", "podAnnotations", "podLabels", "annotations"}
    free |= {"labels", "commonLabels"}

    def objects_of(value: Object, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        inner = [(k, v) for k, v in value.items() if isinstance(v, dict) and k not in free]
        return [path, *(found for k, v in inner for found in objects_of(v, (*path, k)))]

    with helm_python.Chart.load(str(CHART)) as chart:
        places = objects_of(chart.values, ())
        assert len(places) > 20
        for place in places:
            values: Object = {"surprise": 1}
            for key in reversed(place):
                values = {key: values}
            with pytest.raises(helm_python.HelmValuesError, match="surprise"):
                chart.validate_schema(values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"guard": {"settings": {"max_request": 1}}}, "max_request"),
        ({"guard": {"settings": {"host": "::"}}}, "host"),
        ({"guard": {"image": {"digest": "latest"}}}, "digest"),
        ({"gate": {"shards": 0}}, "shards"),
        ({"gate": {"run": "Release 42"}}, "run"),
        ({"verify": {"maxAge": "soon"}}, "maxAge"),
        ({"verify": {"policyDigests": ["default"]}}, "policyDigests"),
        ({"verify": {"suiteDigests": ["cross-task"]}}, "suiteDigests"),
        ({"monitoring": {"prometheusRule": {"runbookPrefix": "https://git.example/taskgate/blob/main"}}}, "runbookPrefix"),
        ({"monitoring": {"prometheusRule": {"runbookPrefix": "runbooks/"}}}, "runbookPrefix"),
    ],
)
def test_the_schema_refuses_impossible_values(values: Object, told: str) -> None:
    """A value that can't work is refused before anything is rendered, and the message names it."""
    with helm_python.Chart.load(str(CHART)) as chart, pytest.raises(helm_python.HelmValuesError, match=told):
        chart.validate_schema(values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "guard.image.repository"),
        ({"guard": {**GUARD, "image": {"repository": "x"}}}, "a tag can be moved"),
        ({"guard": {**GUARD, "keys": {}}}, "allowAnonymous"),
        ({"guard": {**GUARD, "autoscaling": {"cpuUtilization": 0}}}, "cpuUtilization or queueSeconds"),
        ({"guard": {"enabled": False}, "gate": {**GATE, "models": {"existingClaim": ""}}}, "gate.models.existingClaim"),
        ({"guard": {"enabled": False}, "gate": {**GATE, "runs": {"existingClaim": ""}}}, "gate.runs.existingClaim"),
        ({"guard": {"enabled": False}, "gate": {**GATE, "shards": 2, "schedule": "0 3 * * *"}}, "scheduled gate"),
        ({"guard": {"enabled": False}, "exporter": {"enabled": True, "image": GATE["image"]}}, "history.existingSecret"),
        ({"guard": GUARD, "verify": {"enabled": True, "image": GATE["image"]}}, "verify.policyDigests"),
    ],
)
def test_what_is_missing_is_said(values: Object, told: str) -> None:
    """Values that would give a pod that can't start are refused with the name of what is missing."""
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(told)):
        rendered(values)


def test_the_settings_are_those_of_the_guard() -> None:
    """The schema knows exactly the guard's settings, but for those that other values give."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    known = set(schema["properties"]["guard"]["properties"]["settings"]["propertyNames"]["enum"])
    table = (ROOT / "docs" / "guard_settings.md").read_text(encoding="utf-8")
    settings = {name.lower() for name in re.findall(r"^\| `GUARD_(\w+)`", table, re.MULTILINE)}
    assert known <= settings
    assert settings - known == {
        "host", "port", "allow_anonymous", "bundle", "require_signed", "public_key", "policies", "api_keys_file", "api_keys",
    }  # fmt: skip


@pytest.mark.parametrize("shards", [1, 4])
def test_the_gates_exit_codes_decide_on_a_retry(shards: int) -> None:
    """1 to 4 fail the Job at once, 5 and 143 are tried again, and a lost node counts as nothing."""
    job = of_kind({"guard": {"enabled": False}, "gate": {**GATE, "shards": shards}}, "Job", "gate-1")
    rules = {rule["action"]: rule for rule in job["spec"]["podFailurePolicy"]["rules"]}
    final = {ExitCode.INTERNAL, ExitCode.USAGE, ExitCode.BLOCK, ExitCode.INCONCLUSIVE}
    assert set(rules["FailJob"]["onExitCodes"]["values"]) == final
    assert set(rules["Count"]["onExitCodes"]["values"]) == {ExitCode.INFRASTRUCTURE, ExitCode.TERMINATED}
    assert rules["Ignore"]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert job["spec"]["backoffLimit" if shards == 1 else "backoffLimitPerIndex"] == 3
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {r["onExitCodes"]["containerName"] for r in rules.values() if "onExitCodes" in r} == {container["name"]}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_a_pod_that_is_started_again_resumes() -> None:
    """The run's folder lies on the claim and depends on nothing that changes between two pods of a Job."""
    job = of_kind({"guard": {"enabled": False}, "gate": GATE}, "Job", "gate-1")
    pod = job["spec"]["template"]["spec"]
    assert "--out=/runs/1" in pod["containers"][0]["args"]
    assert {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]
    cron = of_kind({"guard": {"enabled": False}, "gate": {**GATE, "schedule": "0 3 * * 1"}}, "CronJob")
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "--out=/runs/$(JOB_NAME)" in container["args"]


def test_shards_are_merged_from_the_folders_they_write() -> None:
    """An Indexed Job of n pods writes n folders, and the merge names these, after them or once it is let go."""
    values = {"guard": {"enabled": False}, "gate": {**GATE, "shards": 3, "name": "assistant"}}
    shards = of_kind(values, "Job", "gate-1")["spec"]
    assert (shards["completionMode"], shards["completions"], shards["parallelism"]) == ("Indexed", 3, 3)
    args = shards["template"]["spec"]["containers"][0]["args"]
    assert "--shard=auto/3" in args
    assert "--out=/runs/1/shard-$(JOB_COMPLETION_INDEX)" in args
    merge = of_kind(values, "Job", "-merge")
    folders = [f"/runs/1/shard-{i}" for i in range(3)]
    (container,) = merge["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["merge", "/runs/1/run", *folders, "--name=assistant"]
    assert merge["spec"]["suspend"] is True
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    hooked = {"guard": {"enabled": False}, "gate": {**GATE, "shards": 3, "hook": True}}
    weights = [int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for o in objects(hooked) if o["kind"] == "Job"]
    assert sorted(weights) == [1, 2]
    assert "suspend" not in of_kind(hooked, "Job", "-merge")["spec"]


def test_the_default_is_to_deny() -> None:
    """One policy takes everything from every pod of the release; the guard's opens its port alone, the gate's no port at all."""
    values = values_of(CHART / "ci" / "everything-values.yaml")
    policies = {
        o["metadata"]["name"].removeprefix("rel-taskgate-"): o["spec"] for o in objects(values) if o["kind"] == "NetworkPolicy"
    }
    deny = policies["default-deny"]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    for found in objects(values):
        if pod_of(found):
            labels = found["metadata"]["labels"] if found["kind"] == "Pod" else found["spec"]["template"]["metadata"]["labels"]
            assert labels.items() >= deny["podSelector"]["matchLabels"].items()
    assert [rule["ports"] for rule in policies["guard"]["ingress"]] == [[{"port": "http", "protocol": "TCP"}]]
    assert "ingress" not in policies["gate"]
    assert [p["port"] for rule in policies["exporter"]["egress"] for p in rule["ports"]] == [53, 53, 5432]


def test_the_guard_scales_by_cpu_and_by_its_queue() -> None:
    """Both metrics are in the autoscaler, which alone sets the number of pods."""
    values = values_of(CHART / "ci" / "everything-values.yaml")
    metrics = of_kind(values, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [m["type"] for m in metrics] == ["ContainerResource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] == "guard_queue_seconds"
    assert "replicas" not in of_kind(values, "Deployment", "-guard")["spec"]
    assert of_kind({"guard": {**GUARD, "autoscaling": {"enabled": False}}}, "Deployment")["spec"]["replicas"] == 2


def test_the_model_is_verified_before_the_pod_starts() -> None:
    """The init container is `gate verify` with read-only models and every option it needs, the same volume as the server's."""
    values = values_of(CHART / "ci" / "gpu-guard-values.yaml")
    pod = of_kind(values, "Deployment", "-guard")["spec"]["template"]["spec"]
    (verify,) = pod["initContainers"]
    options = {option.split("=", 1)[0] for option in verify["args"]}
    assert options == {"--candidate", "--attestation", "--key", "--policy-digest", "--max-age", "--verifier"}
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in verify["volumeMounts"]
    assert any(m["name"] == "models" for c in pod["containers"] for m in c["volumeMounts"])
    known = set(re.findall(r"--[\w-]+", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").split("## `gate verify`")[1]))
    assert options <= known


def test_each_allowed_suite_is_given_to_the_verifier() -> None:
    """`verify.suiteDigests` are options of the init container, one each; without them there is none, and any suite is allowed."""
    values = values_of(CHART / "ci" / "gpu-guard-values.yaml")
    values["verify"]["suiteDigests"] = [DIGEST, "2" * 64]
    (verify,) = of_kind(values, "Deployment", "-guard")["spec"]["template"]["spec"]["initContainers"]
    assert [a for a in verify["args"] if "suite" in a] == [f"--suite-digest={DIGEST}", f"--suite-digest={'2' * 64}"]


def test_toggles_are_off_until_asked_for() -> None:
    """Without monitoring values there is no object of the Prometheus operator and no dashboard."""
    kinds = {o["kind"] for o in objects({"guard": GUARD})}
    assert not kinds & FOREIGN
    assert "ConfigMap" not in kinds


def test_the_rendered_rules_are_the_raw_ones(tmp_path: Path) -> None:
    """Promtool takes the PrometheusRule's spec; but for the runbooks' prefix it is the raw file, templates and all."""
    spec = of_kind(values_of(CHART / "ci" / "everything-values.yaml"), "PrometheusRule")["spec"]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = promtool("check", "rules", "--lint-fatal", file)
    assert done.returncode == 0, done.stdout + done.stderr
    prefix = "https://git.example/taskgate/blob/main/"
    raw = yaml.safe_load((CHART / "rules" / "taskgate.yml").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(spec).replace(f"{prefix}docs/", "docs/")) == raw
    assert json.dumps(spec).count(f"{prefix}docs/operations.md#") == json.dumps(raw).count('"runbook_url"')


def test_monitors_find_their_services() -> None:
    """Each ServiceMonitor selects one Service by its labels and names a port of it."""
    found = objects(values_of(CHART / "ci" / "everything-values.yaml"))
    services = [o for o in found if o["kind"] == "Service"]
    monitors = [o["spec"] for o in found if o["kind"] == "ServiceMonitor"]
    assert len(monitors) == 2
    for monitor in monitors:
        wanted: dict[str, Any] = monitor["selector"]["matchLabels"]
        (service,) = [s for s in services if s["metadata"]["labels"].items() >= wanted.items()]
        assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_dashboard_is_the_raw_one() -> None:
    """Grafana's ConfigMap holds the dashboard file unchanged."""
    config = of_kind(values_of(CHART / "ci" / "everything-values.yaml"), "ConfigMap", "-dashboard")
    assert json.loads(config["data"]["taskgate.json"]) == json.loads(
        (CHART / "dashboards" / "taskgate.json").read_text(encoding="utf-8")
    )
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_helm_test_may_reach_the_guard() -> None:
    """The test pod's labels are those that the guard's policy lets in, and it asks the Service that there is."""
    values: Object = {"guard": GUARD}
    pod = of_kind(values, "Pod", "-test")
    allowed = of_kind(values, "NetworkPolicy", "-guard")["spec"]["ingress"][0]["from"]
    assert any(
        entry.get("podSelector", {}).get("matchLabels", {}).items() <= pod["metadata"]["labels"].items()
        for entry in allowed
        if entry.get("podSelector", {}).get("matchLabels")
    )
    service = of_kind(values, "Service", "-guard")
    url = pod["spec"]["containers"][0]["command"][-1]
    assert url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/readyz"


def notes_of(values: Object) -> str:
    """What Helm prints at the end."""
    (notes,) = [text for name, text in rendered(values).items() if name.endswith("NOTES.txt")]
    return notes


def test_the_notes_say_what_to_do_next() -> None:
    """The notes of a sharded gate have the commands that let the merge decide, with the Jobs' real names."""
    values = {"guard": {"enabled": False}, "gate": {**GATE, "shards": 3}}
    notes = notes_of(values)
    for job in [o["metadata"]["name"] for o in objects(values) if o["kind"] == "Job"]:
        assert f"job/{job}" in notes
    assert DIGEST not in notes


def test_the_notes_of_a_hook_give_helm_the_jobs_own_limit() -> None:
    """A gate that is a hook is told with the --timeout that it needs, sharded or not; for another kubectl waits."""
    for shards in (1, 3):
        gate = {**GATE, "shards": shards, "hook": True, "activeDeadlineSeconds": 7200}
        notes = notes_of({"guard": {"enabled": False}, "gate": gate})
        assert "helm upgrade rel ... --timeout 7200s" in notes
        assert "kubectl" not in notes
    assert "--timeout 7200s" not in notes_of({"guard": {"enabled": False}, "gate": GATE})


def test_the_notes_say_where_a_runbook_is_no_link() -> None:
    """Alerts without a prefix for their runbooks are a line in the notes; with one, or without alerts, there is none."""
    for rule, said in (({"enabled": True}, True), ({"enabled": True, "runbookPrefix": "https://x.example/"}, False), ({}, False)):
        notes = notes_of({"guard": GUARD, "monitoring": {"prometheusRule": rule}})
        assert ("runbookPrefix" in notes) is said
