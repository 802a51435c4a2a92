# Everything that the jobs of the workflow need, on GPUs: the CPU image with PyTorch's CUDA build and vLLM.
#   docker build --file containers/cuda.Dockerfile --tag transformer2:cuda .
# CUDA's libraries come with PyTorch; the machine brings its driver (apptainer --nv, docker --gpus).
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# bubblewrap isolates programs that models write (docs/sandbox.md); Triton compiles its launchers with gcc.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap gcc libc6-dev \
    && rm --recursive --force /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /opt/transformer2
COPY constraints.txt LICENSE README.md pyproject.toml ./
COPY config/paper.yaml config/paper.yaml
COPY paper_tables paper_tables
COPY src src
RUN uv pip install --system --no-cache --constraint constraints.txt '.[trackers,vllm]'
WORKDIR /work
