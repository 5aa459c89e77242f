# The images of the guard and of the gate. One file, five targets; docs/deploy.md says what each is for.
#
#   docker build --build-arg PYTHON_DIGEST=sha256:... --target guard     -t taskgate-guard .      # no torch
#   docker build --build-arg PYTHON_DIGEST=sha256:... --target guard-gpu -t taskgate-guard-gpu .
#   docker build --build-arg PYTHON_DIGEST=sha256:... --target gate      -t taskgate-gate .       # vLLM and CUDA, from wheels
#   docker build --build-arg PYTHON_DIGEST=sha256:... --target exporter  -t taskgate-exporter .
#   docker build --build-arg PYTHON_DIGEST=sha256:... --target verify    -t taskgate-verify .
#
# PYTHON_DIGEST is required: the digest of PYTHON_IMAGE for your platform, looked up and recorded by whoever builds. A package index of
# your own: --secret id=pip.conf,src=... Run with a read-only root and a writable /tmp (docker run --read-only --tmpfs /tmp).
# Each target's packages are made in a stage of their own, whose RUN lines name folders by variables only: tests/deploy replays them.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG PYTHON_DIGEST

# checkov:skip=CKV_DOCKER_7:the base is pinned by a digest that has to be given
FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS base
ENV VENV=/opt/taskgate \
    WHEELS=/opt/wheels \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# The wheel, built once.
FROM base AS wheel
WORKDIR /opt/source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY gate gate
COPY guard_server guard_server
COPY policies policies
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m pip wheel --no-deps --wheel-dir "$WHEELS" .
# vLLM caps fastapi below the line that the guard is pinned to.
RUN cp constraints.txt "$WHEELS/constraints.txt" && grep -v '^fastapi==' constraints.txt > "$WHEELS/constraints-vllm.txt"

# An environment without pip and setuptools: nothing is installed where it runs.
FROM base AS environment
COPY --from=wheel ${WHEELS} ${WHEELS}
RUN python -m venv --without-pip "$VENV"

FROM environment AS verify-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m pip --python "$VENV/bin/python" install -c "$WHEELS/constraints.txt" "$(echo "$WHEELS"/taskgate-*.whl)[verify]"
# The wheel carries the guard and its bundle, 40 MB that nothing here reads.
RUN rm -r "$VENV"/lib/python3*/site-packages/guard_server "$VENV/bin/guard"

FROM environment AS exporter-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m pip --python "$VENV/bin/python" install -c "$WHEELS/constraints.txt" \
    "$(echo "$WHEELS"/taskgate-*.whl)[history-postgres]"
RUN rm -r "$VENV"/lib/python3*/site-packages/guard_server "$VENV/bin/guard"

FROM environment AS guard-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m pip --python "$VENV/bin/python" install -c "$WHEELS/constraints.txt" "$(echo "$WHEELS"/taskgate-*.whl)[guard,guard-otel]"
RUN "$VENV/bin/guard" verify

FROM environment AS guard-gpu-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m pip --python "$VENV/bin/python" install -c "$WHEELS/constraints.txt" \
    "$(echo "$WHEELS"/taskgate-*.whl)[guard-gpu,guard-otel]"
RUN "$VENV/bin/guard" verify

FROM environment AS gate-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m pip --python "$VENV/bin/python" install -c "$WHEELS/constraints-vllm.txt" \
    "$(echo "$WHEELS"/taskgate-*.whl)[vllm,attest,data,endpoint,history-postgres,utility]"
RUN rm -r "$VENV"/lib/python3*/site-packages/guard_server "$VENV/bin/guard"

# What every image runs in: Python without installers, a user without a name.
FROM base AS runtime
RUN python -m pip uninstall --yes pip setuptools wheel && rm -r /usr/local/lib/python3*/ensurepip
ENV PATH=/opt/taskgate/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp

FROM runtime AS verify
COPY --from=verify-packages ${VENV} ${VENV}
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["gate", "verify"]
CMD ["--help"]

FROM runtime AS exporter
COPY --from=exporter-packages ${VENV} ${VENV}
USER 10001:10001
EXPOSE 9464
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/metrics', timeout=4)"]
ENTRYPOINT ["gate"]
CMD ["exporter", "--host", "0.0.0.0"]

# A C compiler stays in this one: Triton and FlashInfer compile kernels while they run. Its caches are under /tmp.
FROM runtime AS gate
# The base image's digest pins its Debian; versions pinned here too would be gone from the mirrors at the next point release.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=gate-packages ${VENV} ${VENV}
ENV HF_HUB_OFFLINE=1 \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["gate"]
CMD ["--help"]

FROM runtime AS guard-gpu
COPY --from=guard-gpu-packages ${VENV} ${VENV}
ENV GUARD_HOST=0.0.0.0 \
    GUARD_DEVICE=cuda \
    MALLOC_ARENA_MAX=1
USER 10001:10001
EXPOSE 8700
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8700/healthz', timeout=4)"]
ENTRYPOINT ["guard"]
CMD ["serve"]

# The last stage is what a build without --target makes.
FROM runtime AS guard
COPY --from=guard-packages ${VENV} ${VENV}
ENV GUARD_HOST=0.0.0.0 \
    MALLOC_ARENA_MAX=1
USER 10001:10001
EXPOSE 8700
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8700/healthz', timeout=4)"]
ENTRYPOINT ["guard"]
CMD ["serve"]
