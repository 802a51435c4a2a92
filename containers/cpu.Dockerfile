# Everything that the jobs of the workflow need, on processors alone.
#   docker build --file containers/cpu.Dockerfile --tag transformer2 .
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# bubblewrap isolates programs that models write (docs/sandbox.md).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
    && rm --recursive --force /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /opt/transformer2
COPY constraints.txt LICENSE README.md pyproject.toml ./
COPY config/paper.yaml config/paper.yaml
COPY paper_tables paper_tables
COPY src src
# PyTorch's index of CPU builds: no CUDA library is downloaded.
ENV UV_TORCH_BACKEND=cpu
RUN uv pip install --system --no-cache --constraint constraints.txt '.[trackers]'
WORKDIR /work
