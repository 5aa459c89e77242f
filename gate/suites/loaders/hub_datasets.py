"""One file of a data set on the Hugging Face hub: `hf://datasets/org/name@revision/path` comes in, a local path goes out.

The revision is part of the name, because a suite built from whatever is newest today can't be built again tomorrow.
"""

from __future__ import annotations

import re
from pathlib import Path

from gate.errors import InfrastructureError, SuiteError

SCHEME = "hf://"
_SOURCE = re.compile(r"hf://datasets/(?P<repo>[\w.-]+(/[\w.-]+)?)@(?P<revision>[\w.-]+)/(?P<path>.+)")


def fetch(source: str) -> Path:
    """The file, downloaded into the hub's cache unless it lies there (HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are heeded).

    Raises `SuiteError` for a name of another form or one that the hub does not have, `InfrastructureError` when no hub answers.
    """
    match = _SOURCE.fullmatch(source)
    if match is None or ".." in source:
        raise SuiteError(
            f"{source}: not a data set file on the hub",
            expected="hf://datasets/org/name@revision/path/to/file",
            found="no revision" if "@" not in source else "another form",
            mend="name the commit (or a tag) after the data set, and the file after that",
        )
    return _download(source, match["repo"], match["revision"], match["path"])


def _download(source: str, repo: str, revision: str, path: str) -> Path:
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise SuiteError(
            f"{source}: needs huggingface_hub",
            expected="huggingface_hub",
            found="not installed",
            mend="pip install 'taskgate[model]'",
        ) from error
    try:
        return Path(hf_hub_download(repo, path, repo_type="dataset", revision=revision))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise SuiteError(
            f"{source}: the hub does not have it",
            expected="a data set, revision and file that exist and that this account may read",
            found=type(error).__name__,
            mend="check the name; for a gated data set accept its terms and set HF_TOKEN",
        ) from error
    except errors.HFValidationError as error:
        raise SuiteError(
            f"{source}: not a name that the hub takes", expected="org/name", found=str(error), mend="check it"
        ) from error
    # Offline mode, a refused connection, a time-out and a full disk all arrive as one of these.
    except (OSError, errors.RevisionResolutionError) as error:
        raise InfrastructureError(
            f"{source}: could not be downloaded",
            expected="a hub that answers, or the file in its cache",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            mend="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or download the file and name its path",
        ) from error
