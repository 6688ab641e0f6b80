# The image that the template for Kubernetes needs: this project, Ray's dashboard and job server, no tools of the tests.
# Build: docker build --tag dh2l-study .
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git=1:* wget=1.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

WORKDIR /home/ray/dh2l-study
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY dh2l dh2l
COPY study study
COPY search_spaces search_spaces

RUN pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --compile-bytecode --requirement requirements.lock "ray[default]" \
    && uv pip install --system --no-cache --no-deps .

USER 1000
ENV RAY_USAGE_STATS_ENABLED=0
CMD ["dh2l-study", "--help"]
