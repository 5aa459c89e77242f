"""Changing what is served while it is served: reload, roll back, shadow; by HTTP and by SIGHUP; a failure changes nothing."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

import httpx
import pytest
from httpx2 import Response  # what starlette's test client answers with
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from guard_server.auth import new_key
from guard_server.labels import TASKS, Direction
from guard_server.settings import shipped_policies
from tests.guard.app_client import HARMFUL, bearer, client, keys, metric, running
from tests.guard.tiny_bundle import write_tiny_bundle

KEYS, ENTRIES = keys(gateway="screen", ops="admin")
OPS, GATEWAY = bearer(KEYS["ops"]), bearer(KEYS["gateway"])
SECONDS = 30.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle root with two bundles, one that is damaged, one whose thresholds no policy can use; one lies outside it."""
    root = tmp_path_factory.mktemp("bundles") / "root"
    write_tiny_bundle(root / "one", name="one")
    write_tiny_bundle(root / "two", name="two", version="2", seed=1)
    write_tiny_bundle(root / "damaged", name="damaged")
    (root / "damaged" / "model.onnx").write_bytes(b"damaged")
    at_five = {"target_fpr": 0.05, "segments": [1], "at": [0.5], "benign": 100}
    write_tiny_bundle(root / "useless", thresholds=[{"direction": d, "task": t} | at_five for d in Direction for t in TASKS])
    at_others = [{"target_fpr": f, "segments": [1], "at": [0.5], "benign": 100} for f in (0.04, 0.03)]
    others = [{"direction": d, "task": t} | at for d in Direction for t in TASKS for at in at_others]
    write_tiny_bundle(root / "other", name="other", thresholds=others)
    write_tiny_bundle(root.parent / "outside", name="outside")
    (root / "link").symlink_to(root.parent / "outside")
    return root


@pytest.fixture
def app(root: Path) -> Iterator[TestClient]:
    """An app that serves `one`."""
    with client(root / "one", api_keys=ENTRIES, bundle_root=root) as found:
        yield found


def _serves(app: TestClient) -> str:
    name = app.post("/v1/screen", json={"texts": HARMFUL}, headers=GATEWAY).json()["model"]["name"]
    assert isinstance(name, str)
    return name


def _slots(app: TestClient) -> dict[str, str]:
    return {b["slot"]: b["name"] for b in app.get("/v1/models", headers=GATEWAY).json()["bundles"]}


def _ask(app: TestClient, action: str, bundle: str | None = None) -> Response:
    return app.post(f"/admin/{action}", headers=OPS, json=None if bundle is None else {"bundle": bundle})


def test_a_reload_serves_the_named_bundle_and_keeps_the_previous(app: TestClient) -> None:
    """After a reload the new bundle answers; after a rollback the old one; a second rollback undoes the first."""
    answer = _ask(app, "reload", "two")
    assert (answer.status_code, answer.json()["current"]["name"]) == (200, "two")
    assert (_serves(app), _slots(app)) == ("two", {"current": "two", "previous": "one"})
    assert _ask(app, "rollback").json()["current"]["name"] == "one"
    assert _serves(app) == "one"
    assert _ask(app, "rollback").json()["current"]["name"] == "two"
    text = app.get("/metrics").text
    assert metric(text, "guard_reloads_total", outcome="ok") == 1
    assert metric(text, "guard_reloads_total", outcome="rolled_back") == 2
    assert metric(text, "guard_model_info", slot="current", model="two") == 1
    assert metric(text, "guard_model_info", slot="current", model="one") == 0


def test_a_reload_without_a_name_reads_the_configured_bundle_again(app: TestClient) -> None:
    """No body means the bundle that the server was started with."""
    _ask(app, "reload", "two")
    assert _ask(app, "reload").json()["current"]["name"] == "one"


@pytest.mark.parametrize("bundle", ["damaged", "useless", "."])
def test_a_bundle_that_cannot_serve_changes_nothing(app: TestClient, bundle: str) -> None:
    """A damaged bundle, one without the policies' thresholds, and a folder that is none: refused, counted; the old one serves."""
    before = _slots(app)
    answer = _ask(app, "reload", bundle)
    assert answer.status_code == (422 if bundle == "useless" else 409)
    assert answer.json()["error"]["type"] == ("policy" if bundle == "useless" else "bundle")
    assert (_serves(app), _slots(app)) == ("one", before)
    assert metric(app.get("/metrics").text, "guard_reloads_total", outcome="failed") == 1
    assert app.get("/readyz").status_code == 200


OUT = ["../outside", "two/../../outside", "/etc", "link", "..", "two/../missing"]
NONE = ["", "missing", "~", "two/bundle.json", "a\x00b", "x" * 5000]


@pytest.mark.parametrize("name", OUT + NONE)
@pytest.mark.parametrize("action", ["reload", "shadow"])
def test_a_name_leads_nowhere_but_under_the_root(app: TestClient, root: Path, action: str, name: str) -> None:
    """Paths out of the root, links that leave it, names that are none: refused, and no path of the machine is told."""
    answer = _ask(app, action, name)
    assert answer.status_code in ({409, 422} if name == "" else {422}), answer.text
    assert answer.json()["error"]["type"] in {"bad_request", "bundle"}
    if name != "":
        assert str(root) not in answer.text
    assert _slots(app) == {"current": "one"}


def test_no_bundle_can_be_named_where_no_root_is_configured(root: Path) -> None:
    """Without `bundle_root` only the configured bundle can be reloaded."""
    with client(root / "one", api_keys=ENTRIES) as app:
        assert _ask(app, "reload", "two").status_code == 422
        assert _ask(app, "reload", str(root / "two")).status_code == 422
        assert _ask(app, "reload").status_code == 200


def test_a_rollback_with_nothing_before_is_refused(app: TestClient) -> None:
    """409 where only one bundle was ever loaded."""
    answer = _ask(app, "rollback")
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "bundle")
    assert _serves(app) == "one"


def test_administering_needs_an_admin_key(root: Path) -> None:
    """A screening key is refused, and so is everybody where no key is configured."""
    with client(root / "one", api_keys=ENTRIES) as app:
        for method, path in (("POST", "reload"), ("POST", "rollback"), ("POST", "shadow"), ("DELETE", "shadow")):
            assert app.request(method, f"/admin/{path}", headers=GATEWAY).status_code == 403
            assert app.request(method, f"/admin/{path}").status_code == 401
    with client(root / "one") as app:
        assert app.post("/admin/reload").status_code == 403


def test_a_shadow_is_compared_and_never_decides(app: TestClient) -> None:
    """Each text is scored by the shadow too; its differences are counted, the answer is the current bundle's; then it can go."""
    assert _ask(app, "shadow", "two").json()["shadow"]["name"] == "two"
    for _ in range(3):
        assert _serves(app) == "one"
    _wait(lambda: metric(app.get("/metrics").text, "guard_shadow_comparisons_total") == 3)
    assert metric(app.get("/metrics").text, "guard_shadow_score_difference_count") == 3
    answer = app.delete("/admin/shadow", headers=OPS)
    assert (answer.status_code, answer.json()["shadow"]) == (200, None)
    _serves(app)
    assert (metric(app.get("/metrics").text, "guard_shadow_comparisons_total"), _slots(app)) == (3, {"current": "one"})
    assert metric(app.get("/metrics").text, "guard_model_info", slot="shadow") == 0


def test_a_damaged_shadow_is_refused(app: TestClient) -> None:
    """A shadow is verified like any bundle, and one must be named."""
    assert _ask(app, "shadow", "damaged").status_code == 409
    assert app.post("/admin/shadow", headers=OPS, json={}).status_code == 422
    assert _slots(app) == {"current": "one"}


def test_policies_are_read_again_with_the_bundle(root: Path, tmp_path: Path) -> None:
    """A reload takes the policy file as it is; one that is broken changes nothing."""
    path = tmp_path / "guard.yaml"
    path.write_text(shipped_policies().read_text())
    with client(root / "one", api_keys=ENTRIES, policies=path) as app:
        digest = app.get("/v1/models", headers=GATEWAY).json()["policies_digest"]
        path.write_text("policies: none")
        assert _ask(app, "reload").status_code == 422
        assert app.get("/v1/models", headers=GATEWAY).json()["policies_digest"] == digest
        path.write_text(shipped_policies().read_text().replace("max_characters: 50000", "max_characters: 25000"))
        assert _ask(app, "reload").status_code == 200
        assert app.get("/v1/models", headers=GATEWAY).json()["policies_digest"] != digest


def test_a_policy_meets_only_bundles_that_have_its_thresholds(root: Path, tmp_path: Path) -> None:
    """Under load, bundle and policies are changed to a pair of which neither fits the former other: every request is answered."""
    path, shipped = tmp_path / "guard.yaml", shipped_policies().read_text()
    path.write_text(shipped)
    stop = Event()
    with client(root / "one", api_keys=ENTRIES, bundle_root=root, policies=path) as app, ThreadPoolExecutor(2) as pool:

        def ask() -> set[int]:
            found: set[int] = set()
            while not (found and stop.is_set()):
                found.add(app.post("/v1/screen", json={"texts": [HARMFUL] * 3}, headers=GATEWAY).status_code)
            return found

        asking = [pool.submit(ask) for _ in range(2)]
        try:
            assert _ask(app, "reload", "other").status_code == 422
            for bundle in ("other", "one") * 3:
                path.write_text(shipped.replace("0.05", "0.04").replace("0.01", "0.03") if bundle == "other" else shipped)
                assert _ask(app, "reload", bundle).status_code == 200
        finally:
            stop.set()
        assert [done.result() for done in asking] == [{200}, {200}]


def test_a_reload_for_new_policies_leaves_something_to_roll_back_to(app: TestClient) -> None:
    """The same bundle read again does not take the place of the one before it."""
    _ask(app, "reload", "two")
    _ask(app, "reload", "two")
    assert _slots(app) == {"current": "two", "previous": "one"}
    assert _ask(app, "rollback").json()["current"]["name"] == "one"


def test_keys_are_read_again_with_the_bundle(root: Path, tmp_path: Path) -> None:
    """A key taken out of the file opens nothing after a reload, a new one does; a broken file changes nothing; rates go on."""
    path, known = tmp_path / "keys", ENTRIES.replace(",", "\n")
    path.write_text(known)
    new, entry = new_key("gateway", "screen", "3/hour")
    with client(root / "one", api_keys_file=path) as app:

        def asked(key: str) -> int:
            return app.get("/v1/models", headers=bearer(key)).status_code

        assert (asked(KEYS["gateway"]), asked(new)) == (200, 401)
        for broken in (b"gateway:screen", b"", b"\xff"):
            path.write_bytes(broken)
            answer = _ask(app, "reload")
            assert (answer.status_code, answer.json()["error"]["type"]) == (422, "keys")
        path.unlink()
        assert _ask(app, "reload").json()["error"]["type"] == "keys"
        assert (asked(KEYS["gateway"]), asked(new)) == (200, 401)
        path.write_text(f"{known.splitlines()[1]}\n{entry}")
        assert _ask(app, "reload").status_code == 200
        assert (asked(KEYS["gateway"]), asked(new), asked(new)) == (401, 200, 200)
        assert _ask(app, "reload").status_code == 200
        assert (asked(new), asked(new)) == (200, 429)


@pytest.mark.parametrize("broken", ["damaged", "useless", "policies"])
def test_a_revoked_key_is_shut_out_whatever_else_of_the_reload_fails(root: Path, tmp_path: Path, broken: str) -> None:
    """A key that was taken out opens nothing more although bundle or policies are refused, and the answer says that it is so."""
    path, policies = tmp_path / "keys", tmp_path / "guard.yaml"
    path.write_text(ENTRIES.replace(",", "\n"))
    policies.write_text(shipped_policies().read_text())
    new, entry = new_key("gateway", "screen")
    with client(root / "one", api_keys_file=path, bundle_root=root, policies=policies) as app:
        path.write_text(f"{ENTRIES.split(',')[1]}\n{entry}")
        if broken == "policies":
            policies.write_text("policies: none")
        answer = _ask(app, "reload", "two" if broken == "policies" else broken)
        assert answer.status_code == (409 if broken == "damaged" else 422)
        assert "keys" in answer.json()["error"]["message"]
        asked = [app.get("/v1/models", headers=bearer(key)) for key in (KEYS["gateway"], new)]
        assert [one.status_code for one in asked] == [401, 200]
        assert [b["name"] for b in asked[1].json()["bundles"]] == ["one"]


@pytest.mark.parametrize("path", ["/admin%2freload", "/admin%2Freload", "/%61dmin/reload"])
def test_an_encoded_path_needs_the_admin_key_too(app: TestClient, path: str) -> None:
    """However its characters are written, the route that reloads opens to no other key."""
    assert (app.post(path).status_code, app.post(path, headers=GATEWAY).status_code) == (401, 403)


def test_bundles_of_one_name_are_told_apart_in_the_metrics(root: Path, tmp_path: Path) -> None:
    """Two bundles called alike have a series each; after further reloads only those that are loaded have one."""
    for seed in range(4):
        write_tiny_bundle(tmp_path / str(seed), name="same", seed=seed)
    with client(tmp_path / "0", api_keys=ENTRIES, bundle_root=tmp_path) as app:

        def models() -> set[str]:
            families = text_string_to_metric_families(app.get("/metrics").text)
            return {s.labels["model"] for f in families for s in f.samples if s.name == "guard_scored_segments_total"}

        _serves(app)
        digests = [b["digest"] for b in app.get("/v1/models", headers=GATEWAY).json()["bundles"]]
        for name in "123":
            digests.append(_ask(app, "reload", name).json()["current"]["digest"])
            _serves(app)
            assert models() == {f"same-{digest[:12]}" for digest in digests[-2:]}


def test_a_reload_under_load_loses_no_request(app: TestClient) -> None:
    """While bundles are swapped eight times, every request is answered 200, and after each swap the new one answers."""
    stop = Event()
    served: set[str] = set()

    def ask() -> int:
        count = 0
        while not (count and stop.is_set()):
            answer = app.post("/v1/screen", json={"texts": [HARMFUL, "please tell a story"]}, headers=GATEWAY)
            assert answer.status_code == 200, answer.text
            assert answer.json()["decision"] == "block"
            served.add(answer.json()["model"]["name"])
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for name in ("two", "one") * 4:
                assert _ask(app, "reload", name).status_code == 200
                served.clear()
                _wait(partial(served.__contains__, name))
        finally:
            stop.set()
        assert all(done.result() > 0 for done in asking)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP on this system")
def test_sighup_reloads_a_real_process(tmp_path: Path) -> None:
    """The bundle that lies at the configured place is served after SIGHUP; a damaged one is logged and changes nothing."""
    folder = write_tiny_bundle(tmp_path / "b", name="one")
    other = write_tiny_bundle(tmp_path / "other", name="two", seed=1)
    with running(folder) as server, httpx.Client(base_url=server.url) as http:

        def serves() -> str:
            return str(http.get("/v1/models").json()["bundles"][0]["name"])

        assert serves() == "one"
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        server.signal(signal.SIGHUP)
        _wait(lambda: serves() == "two")
        (folder / "model.onnx").write_bytes(b"damaged")
        server.signal(signal.SIGHUP)
        _wait(lambda: metric(http.get("/metrics").text, "guard_reloads_total", outcome="failed") == 1)
        assert serves() == "two"
        assert http.post("/v1/screen", json={"texts": HARMFUL}).json()["decision"] == "block"
        assert [line["level"] for line in server.log if line["event"] == "reload failed, bundle and policies stay"] == ["error"]


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not until():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
