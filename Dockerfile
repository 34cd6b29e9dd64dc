# Two images from one file, each buildable alone:
#   production  Airflow with this project's DAGs, for docker-compose.yaml and the Helm chart
#   sandbox     the stand-in platform with its own Airflow (`make demo` in a box)

# Sandbox ----------------------------------------------------------------------------------------
# Debian 12 with Python 3.11 and scripts/bootstrap: the machine that `make demo` is made for.
FROM python:3.11-slim-bookworm AS sandbox

WORKDIR /opt/vcci-ops
COPY scripts/bootstrap scripts/bootstrap
COPY requirements-dev.txt ./
RUN scripts/bootstrap \
    && rm -rf build /var/lib/apt/lists/* /root/.cache

COPY pyproject.toml requirements.txt ./
COPY dags dags
COPY plugins plugins
COPY include include
COPY sandbox sandbox
RUN .venv/bin/python -m compileall -q dags plugins sandbox

# Not root: PostgreSQL refuses to run as root, and nothing here needs it.
RUN useradd --uid 50000 --create-home vcci \
    && install --directory --owner=vcci /var/lib/vcci-sandbox
USER 50000
ENV PATH=/opt/vcci-ops/.venv/bin:$PATH \
    PYTHONPATH=/opt/vcci-ops:/opt/vcci-ops/plugins \
    VCCI_SANDBOX_HOME=/var/lib/vcci-sandbox
VOLUME /var/lib/vcci-sandbox
CMD ["python", "-m", "sandbox.demo"]

LABEL org.opencontainers.image.title="vcci-ops sandbox" \
      org.opencontainers.image.description="A stand-in VCCI platform and an Airflow that checks it" \
      org.opencontainers.image.licenses="Apache-2.0"

# Production -------------------------------------------------------------------------------------
# The official image, for its entrypoint: the Helm chart's probes call it. Slim, for every package
# comes from requirements.txt. Keep the tag equal to apache-airflow in pyproject.toml (a test looks).
FROM apache/airflow:slim-3.3.2-python3.11 AS production

# psql, pg_dump and pg_restore. pg_dump must not be older than the server it dumps: Debian 12 has 15. For
# a newer server, give the package of the same major version from PostgreSQL's own repository.
ARG POSTGRES_CLIENT=postgresql-client
USER 0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "${POSTGRES_CLIENT}" \
    && rm -rf /var/lib/apt/lists/* \
    && psql --version && pg_dump --version && pg_restore --version
USER 50000

# uv's own pin is in requirements-dev.txt; `sync` leaves exactly what requirements.txt says.
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt \
    --mount=type=bind,source=requirements-dev.txt,target=/tmp/requirements-dev.txt \
    sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ *--hash/p}' /tmp/requirements-dev.txt > /tmp/uv.txt \
    && pip install --no-cache-dir --require-hashes -r /tmp/uv.txt \
    && uv pip sync --no-cache --require-hashes --compile-bytecode /tmp/requirements.txt \
    && rm /tmp/uv.txt \
    && airflow version

COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 plugins /opt/airflow/plugins
COPY --chown=airflow:0 dags /opt/airflow/dags
RUN python -m compileall -q /opt/airflow/dags /opt/airflow/plugins
# Airflow adds plugins/ to the path by itself; `python -m vcci_ops.migrations` needs it said.
ENV PYTHONPATH=/opt/airflow/plugins \
    VCCI_OPS_SETTINGS=production

LABEL org.opencontainers.image.title="vcci-ops" \
      org.opencontainers.image.description="The production runbook of the VCCI platform as Airflow DAGs" \
      org.opencontainers.image.licenses="Apache-2.0"
