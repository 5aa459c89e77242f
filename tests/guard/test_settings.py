"""Settings: from the environment, frozen, and impossible combinations refused before anything is served."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from guard_server.policy import load_policies
from guard_server.settings import Settings, read_settings, shipped_policies

ENTRY = f"gateway:screen:{'0' * 64}"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GUARD_{name.upper()}", raising=False)


def test_the_environment_sets_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """`GUARD_...` variables are read; what the command line gives is stronger; other variables are not an error."""
    monkeypatch.setenv("GUARD_PORT", "9000")
    monkeypatch.setenv("GUARD_MAX_REQUESTS", "7")
    monkeypatch.setenv("GUARD_SERVICE_PORT_HTTP", "tcp://10.0.0.1:80")
    settings = Settings(port=9001)
    assert (settings.port, settings.max_requests) == (9001, 7)


def test_settings_cannot_be_changed_once_read() -> None:
    """Nothing in the server can move a limit while it runs."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().max_requests = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("MAX_REQUESTS", "0"),
        ("MAX_BODY_BYTES", "-1"),
        ("DEADLINE_SECONDS", "0"),
        ("DEADLINE_SECONDS", "nan"),
        ("DEADLINE_SECONDS", "inf"),
        ("BATCH_WAIT_SECONDS", "inf"),
        ("DRAIN_SECONDS", "inf"),
        ("SHUTDOWN_SECONDS", "nan"),
        ("DEVICE", "tpu"),
        ("LOG_LEVEL", "loud"),
        ("LOG_TEXT_SHARE", "1.5"),
        ("LOG_TEXT_SHARE", "nan"),
        ("JWT_ALGORITHM", "none"),
    ],
)
def test_an_impossible_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value that cannot be meant stops the start and names its setting."""
    monkeypatch.setenv(f"GUARD_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"require_signed": True}, "GUARD_PUBLIC_KEY"),
        ({"jwt_key_file": Path("key.pem")}, "GUARD_JWT_AUDIENCE"),
        ({"jwt_key_file": Path("key.pem"), "jwt_audience": "guard"}, "GUARD_JWT_ISSUER"),
        ({"host": "0.0.0.0"}, "GUARD_ALLOW_ANONYMOUS"),
        ({"host": "192.168.0.7"}, "no key"),
        ({"host": "::"}, "no key"),
    ],
)
def test_an_unsafe_combination_is_refused(given: dict[str, object], says: str) -> None:
    """Signatures without a key, tokens for anybody, and an open address without keys are refused with what to do."""
    with pytest.raises(ValidationError, match=says):
        Settings.model_validate(given)


def test_the_start_names_the_variable_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stops the start names the variables as they are set, each with its fault, and shows nothing that was given."""
    monkeypatch.setenv("GUARD_API_KEYS", ENTRY)
    with pytest.raises(ValueError, match=r"^GUARD_PORT: .*; GUARD_WORKERS: .*") as values:
        read_settings({"port": 70000, "workers": -1})
    with pytest.raises(ValueError, match=r"^GUARD_REQUIRE_SIGNED needs GUARD_PUBLIC_KEY") as combined:
        read_settings({"require_signed": True})
    assert not any(text in str(error.value) for error in (values, combined) for text in (ENTRY, "70000"))


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0", "api_keys": ENTRY},
        {"host": "0.0.0.0", "allow_anonymous": True},
        {"host": "::1"},
        {"host": "localhost"},
    ],
)
def test_a_guarded_or_a_local_address_is_served(given: dict[str, object]) -> None:
    """An open address with keys or with an explicit word, and a local one, are fine."""
    assert Settings.model_validate(given).host == given["host"]


def test_no_error_and_no_print_shows_the_keys() -> None:
    """The key entries are in neither the settings' text nor in an error about another setting."""
    assert ENTRY not in repr(Settings(api_keys=ENTRY))
    with pytest.raises(ValidationError) as refused:
        Settings(api_keys=ENTRY, port=70000)
    assert ENTRY not in str(refused.value)
    with pytest.raises(ValidationError) as combined:
        Settings(api_keys=ENTRY, require_signed=True)
    assert ENTRY not in str(combined.value)


def test_the_shipped_policies_are_there_and_load() -> None:
    """The default of `policies` is a file of the project that can be used."""
    assert "default" in load_policies(shipped_policies()).names
