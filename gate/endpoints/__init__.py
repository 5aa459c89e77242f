"""The table of engines that load a candidate. A new one is a module with an `Endpoint` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gate.endpoints.base import Endpoint, EngineOptions
from gate.errors import UsageError
from gate.records import Candidate

Engine = Callable[[Candidate, EngineOptions], Endpoint]
"""Loads a candidate. Raises `CandidateError` for what cannot be loaded whole, `InfrastructureError` where the machine fails."""


def _hf_local(candidate: Candidate, options: EngineOptions) -> Endpoint:
    from gate.endpoints.hf_local import HfLocal

    return HfLocal(candidate, device=options.device, dtype=options.dtype, batch_size=options.batch_size)


def _openai_http(candidate: Candidate, options: EngineOptions) -> Endpoint:
    from gate.endpoints.openai_http import OpenAiHttp

    return OpenAiHttp(candidate, in_flight=options.in_flight)


def _vllm_local(candidate: Candidate, options: EngineOptions) -> Endpoint:
    from gate.endpoints.vllm_local import VllmLocal

    return VllmLocal(candidate, options)


def _ray_cluster(candidate: Candidate, options: EngineOptions) -> Endpoint:
    from gate.endpoints.ray_cluster import RayCluster

    if options.worker_engine not in IN_WORKERS:
        raise UsageError(
            f"a worker cannot hold the engine {options.worker_engine!r}",
            expected=" or ".join(IN_WORKERS),
            found=options.worker_engine,
            mend="choose one of these",
        )
    return RayCluster(candidate, options, ENDPOINTS[options.worker_engine])


IN_WORKERS: Final = ("hf_local", "vllm_local")
"""Engines that a cluster's workers can hold: those that run a candidate's folder."""
ENDPOINTS: Final[Mapping[str, Engine]] = {
    "hf_local": _hf_local,
    "vllm_local": _vllm_local,
    "openai_http": _openai_http,
    "ray_cluster": _ray_cluster,
}
"""Name → engine. Importing the table loads no engine's libraries: they come in when one is made."""
DEFAULT: Final = "hf_local"
"""The engine that `gate check` uses."""
