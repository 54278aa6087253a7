# Training, from the repository's root:
#   docker build -f docker/train.Dockerfile -t vmamba --build-arg COMMIT=$(git rev-parse HEAD) .
#   docker run --rm --gpus all --shm-size 16g -v $PWD/outputs:/runs/outputs vmamba model=tiny
# torch's wheel brings CUDA and NVRTC: no CUDA image and no compiler. EXTRAS="--extra det --extra seg" adds OpenMMLab.
FROM python:3.12-slim
ARG EXTRAS=""
RUN pip install --no-cache-dir uv
WORKDIR /opt/vmamba
COPY pyproject.toml README.md ./
RUN uv sync --no-cache --no-install-project ${EXTRAS}
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY ops ops
COPY sweeps sweeps
COPY tasks tasks
COPY vmamba vmamba
RUN uv sync --no-cache ${EXTRAS}
# the image has no .git: runs take the commit from here
ARG COMMIT=""
RUN if [ -n "$COMMIT" ]; then echo "{\"commit\": \"$COMMIT\", \"dirty\": false}" > git.json; fi
ENV PATH=/opt/vmamba/.venv/bin:$PATH
WORKDIR /runs
ENTRYPOINT ["python", "-m", "vmamba.run"]
