# Two stages: pip and its caches stay behind. The second has no compiler, runs as nobody in particular, and writes only
# below /var/lib/meterbox, so that its root may be read-only. It works where its file lies, so that `docker compose exec
# gateway meterbox budget` and every other verb finds it without --config.
FROM python:3.13.7-slim AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
RUN python -m venv /opt/meterbox && /opt/meterbox/bin/pip install --no-cache-dir --disable-pip-version-check ".${EXTRAS}"

FROM python:3.13.7-slim
RUN groupadd --gid 10001 meterbox \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/meterbox --shell /usr/sbin/nologin meterbox \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/meterbox
COPY --from=build /opt/meterbox /opt/meterbox
ENV PATH=/opt/meterbox/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib/meterbox \
    METERBOX_READY=http://127.0.0.1:8788/readyz
USER 10001:10001
WORKDIR /etc/meterbox
VOLUME /var/lib/meterbox
EXPOSE 8787 8788
# 200 once calls are served, 503 while the ledger can't be written.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['METERBOX_READY'], timeout=2)"]
ENTRYPOINT ["meterbox"]
CMD ["serve", "--config", "/etc/meterbox/meterbox.toml"]
