# One image for aggregator, archiver, web and sources: the command says which.
# Packages come by the locked hashes, the window engine is compiled here and not at the first start.

FROM python:3.11.15-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/engine

WORKDIR /app
COPY requirements.txt ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install \
        --require-hashes --no-deps --only-binary :all: -r requirements.txt

COPY manage.py ./
COPY aggregator aggregator
COPY api api
COPY console console
COPY sources sources
COPY swapsite swapsite
COPY clients/js clients/js
COPY infra/clickhouse/schema infra/clickhouse/schema
COPY infra/docker infra/docker
COPY data data
RUN /opt/venv/bin/python -m compileall -q /opt/venv/lib aggregator api console sources swapsite \
    && /opt/venv/bin/python manage.py compile_engine \
    && install -d -o 10001 -g 10001 /data


FROM python:3.11.15-slim-bookworm AS service

# The engine is compiled for any CPU of the architecture: what the build machine's CPU could do more,
# another machine may not, and numba would compile again at each start.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/tmp/engine \
    DATABASE_FILE=/data/db.sqlite3 \
    LOG_FORMAT=json

WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/engine /opt/engine
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /data /data

USER 10001:10001
VOLUME /data
# Nothing else is written: the root file system may be read-only, with a tmpfs at /tmp.
ENTRYPOINT ["/bin/sh", "/app/infra/docker/entrypoint.sh"]
CMD ["python", "manage.py", "run_aggregator"]
