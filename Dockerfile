# An image with the package, its configs and a user without privileges.
#
#   docker build -t diffusion_jax .                              for CPUs
#   docker build -t diffusion_jax --build-arg EXTRAS=cuda12 .    for NVIDIA GPUs
#   docker run --rm -v "$PWD/runs:/home/user/diffusion_jax/runs" diffusion_jax \
#     --config=configs/digits.py
#
# For GPUs add --gpus=all to docker run. The folder that is mounted for the runs must be
# writable for the user id 1000; --user="$(id -u)" runs as another.
FROM python:3.11-slim
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 VENV=/home/user/venv PATH=/home/user/venv/bin:$PATH \
    HOME=/home/user XDG_CACHE_HOME=/tmp/cache
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/diffusion_jax
COPY --chown=user . .
RUN EXTRAS=$EXTRAS bash -c 'set -eu; source launch/env.sh; prepare_venv' && mkdir -p runs
VOLUME /home/user/diffusion_jax/runs
ENTRYPOINT ["diffusion-jax"]
