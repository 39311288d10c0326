# The image of Knocker: docker build -t knocker .
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY knocker knocker
COPY twisted twisted
RUN python -m venv /opt/knocker \
    && /opt/knocker/bin/pip install --no-cache-dir '.[redis]' \
    # twistd reads this cache instead of trying to write one at every start; it must be newer than the plugin file.
    && /opt/knocker/bin/python -c "from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))" \
    && touch /opt/knocker/lib/python3.*/site-packages/twisted/plugins/dropin.cache \
    && /opt/knocker/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="Knocker" \
      org.opencontainers.image.description="A knock-knock gateway for services behind a reverse proxy" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/knocker/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KNOCKER_CONFIG_PATH=/etc/knocker/knocker.yaml
COPY --from=build /opt/knocker /opt/knocker
# Any user may be given with --user, and each keeps its files to itself in a fresh volume.
RUN mkdir -m 1777 /data
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["knocker", "health"]
ENTRYPOINT ["twistd", "-n", "--pidfile=", "knocker"]
