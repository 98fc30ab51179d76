# The image holds a Python environment under /opt/tagstone and nothing of the tree. It runs as uid 10001 and needs to write
# only to /data, so the root filesystem can be read-only.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/tagstone
# requirements-extras.lock brings OpenPGP (tagstone[gpg]) and notification services (tagstone[apprise]) as well.
ARG LOCK=requirements.lock
# Dependencies first: this layer changes only with the locks.
COPY requirements.lock requirements-extras.lock ./
RUN /opt/tagstone/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement ${LOCK}
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY storage storage
COPY config config
# Bytecode is compiled here: a read-only root filesystem could not keep it, and starting would take longer each time.
RUN /opt/tagstone/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/tagstone/bin/pip uninstall --yes pip

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Tagstone" \
      org.opencontainers.image.description="An OCI distribution proxy that makes tags immutable" \
      org.opencontainers.image.licenses="Apache-2.0"
# The shipped configuration has its data in /var/lib/tagstone: so that operators' commands in the container need not name /data.
RUN groupadd --gid 10001 tagstone \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin tagstone \
    && install --directory --owner 10001 --group 10001 --mode 0750 /data \
    && ln -s /data /var/lib/tagstone
COPY --from=build /opt/tagstone /opt/tagstone
COPY config/tagstone.yaml /etc/tagstone/tagstone.yaml
ENV PATH=/opt/tagstone/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME /data
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5001/healthz', timeout=4).close()"]
ENTRYPOINT ["tagstone"]
CMD ["serve", "--config", "/etc/tagstone/tagstone.yaml", "--data-dir", "/data", "--listen", "0.0.0.0:5000"]
