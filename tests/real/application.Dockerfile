# syntax=docker/dockerfile:1
ARG DEBIAN=debian
FROM $DEBIAN AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN <<EOF
set -eux
groupadd --gid 1500 app
useradd --create-home --uid 1500 --gid app --shell /bin/bash app
install --directory --owner app --group app --mode 3777 /var/run/app
EOF
COPY --chmod=0555 <<-"EOF" /usr/local/bin/entrypoint
	#!/bin/sh
	set -e
	echo "$(id -un) in $PWD with $LEVEL"
	exec "$@"
EOF
ONBUILD ARG LEVEL=info
ONBUILD COPY --chown=app:app conf /etc/app/
ONBUILD RUN echo "level=$LEVEL" >> /etc/app/app.conf

FROM base AS made
COPY src src
# what is made is kept between builds
RUN --mount=type=cache,target=/var/cache/made,sharing=locked \
# and nothing of that enters the image
    for file in src/*; do \
      cp "$file" /var/cache/made/; \
    done && \
    cat /var/cache/made/* > /made

FROM base
ENV LEVEL=$LEVEL \
    PATH=$PATH:/opt/app/bin
COPY --link --from=made /made /opt/app/
COPY --link --chown=1500:1500 bin/ /opt/app/bin/
USER app:app
WORKDIR /srv/app
VOLUME ["/data", "/srv/app/state"]
EXPOSE 8080 9090/udp
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD app --health || exit 1
ENTRYPOINT ["entrypoint"]
CMD ["app"]
