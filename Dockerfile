# kvcd in a container: takes the place of `image: redis:7` in a stack.
# Debian bookworm in both stages, so that the Python is the one that Debian's python3-pyverbs is built for.

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Where the builder's packages come from, if not from PyPI; stays in this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
WORKDIR /source
COPY pyproject.toml ./
# The dependencies first: they change less often than the sources.
RUN python3 -m venv /opt/kvcd \
 && python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >requirements.txt \
 && /opt/kvcd/bin/pip install --quiet --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY setup.py README.md LICENSE ./
COPY kvcd kvcd
COPY protocol protocol
COPY storage storage
RUN /opt/kvcd/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps . \
 && /opt/kvcd/bin/pip uninstall --quiet --yes pip setuptools

FROM debian:bookworm-slim
# redis-cli comes along because the health checks of existing stacks call it inside the container; the rest is for memory nodes, and for
# front ends of theirs: the RDMA library with its drivers, and Debian's own Python binding, which fits no other library.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 redis-tools ibverbs-providers libibverbs1 python3-pyverbs \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 999 kvcd \
 && useradd --system --uid 999 --gid kvcd --home-dir /data --no-create-home kvcd \
 && install -d -o kvcd -g kvcd /data \
 && install -d -m 1777 /run/kvcd
COPY --from=build /opt/kvcd /opt/kvcd
RUN ln -s /usr/lib/python3/dist-packages/pyverbs /opt/kvcd/lib/python3.11/site-packages/pyverbs
COPY docker/entrypoint /usr/local/bin/entrypoint
RUN ln -s /opt/kvcd/bin/kvcd /usr/local/bin/kvcd \
 && ln -s /opt/kvcd/bin/kvcd /usr/local/bin/redis-server
# The image's own defaults, which a file, the environment and flags beat: a container is there to be reached.
ENV KVCD_DEFAULT_BIND="0.0.0.0 -::" \
    KVCD_DEFAULT_PROTECTED_MODE=no \
    KVCD_DEFAULT_ADMIN_PORT=9121 \
    KVCD_DEFAULT_ADMIN_BIND="0.0.0.0 -::" \
    KVCD_ADDRESS_FILE=/run/kvcd/address \
    PYTHONDONTWRITEBYTECODE=1
USER kvcd
WORKDIR /data
EXPOSE 6379 9121
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["kvcd", "ping"]
ENTRYPOINT ["entrypoint"]
CMD ["kvcd", "serve"]
