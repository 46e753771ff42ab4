# One image for every service of docker-compose.yml:  docker build --tag hpo:local .
# For NVIDIA GPUs:                                     docker build --tag hpo:cuda --build-arg DEVICE=cuda .
ARG PYTHON=3.11.13-slim-bookworm

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-eu", "-o", "pipefail", "-c"]
ARG DEVICE=cpu
# torch's CPU build is 200 MB, the CUDA build on PyPI 2.5 GB with its libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/hpo/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/hpo
COPY constraints.txt ./
RUN case "$DEVICE" in \
        cpu) pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" ;; \
        cuda) pip install --constraint constraints.txt torch ;; \
        *) echo "DEVICE must be cpu or cuda, got $DEVICE" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY hpo ./hpo
COPY search_spaces ./search_spaces
RUN pip install --constraint constraints.txt ".[server]"

FROM python:${PYTHON}
RUN useradd --uid 1000 --create-home hpo && install --directory --owner hpo --group hpo /srv/studies /srv/mlflow
COPY --from=build /opt/hpo /opt/hpo
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/
# A container that is run under another user id has no name and no home there.
ENV PATH=/opt/hpo/bin:$PATH HOME=/tmp USER=hpo PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /srv
ENTRYPOINT ["entrypoint.sh"]
CMD ["hpo", "--help"]
