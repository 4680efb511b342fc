# docs/docker.md has the commands. The image brings PyTorch and CUDA; requirements.txt adds the rest.
ARG TAG=2.11.0-cuda12.8-cudnn9-runtime
FROM pytorch/pytorch:${TAG}

ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1001 trainer
WORKDIR /project
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY --chown=trainer . .
RUN mkdir -p data saved && chown trainer . data saved
USER 1001

ENTRYPOINT ["python"]
CMD ["train.py", "--help"]
