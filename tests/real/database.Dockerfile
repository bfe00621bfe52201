FROM debian
RUN set -eux; \
	groupadd -r postgres --gid=999; \
# its home is where the data will be
	useradd -r -g postgres --uid=999 --home-dir=/var/lib/postgresql --shell=/bin/bash postgres; \
	install --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql
RUN set -eux; \
	kept="$(apt-mark showmanual)"; \
	apt-get update; \
	apt-get install -y --no-install-recommends gosu locales; \
	rm -rf /var/lib/apt/lists/*; \
	apt-mark auto '.*' > /dev/null; \
	[ -z "$kept" ] || apt-mark manual $kept gosu locales > /dev/null; \
	apt-get purge -y --auto-remove; \
	echo 'en_US.UTF-8 UTF-8' >> /etc/locale.gen; \
	locale-gen; \
	gosu nobody true
ENV LANG en_US.utf8
ENV PG_MAJOR 15
ENV PATH $PATH:/usr/lib/postgresql/$PG_MAJOR/bin
RUN set -ex; \
	apt-get update; \
	apt-get install -y --no-install-recommends postgresql-common; \
	sed -ri 's/#(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf; \
	apt-get install -y --no-install-recommends "postgresql-$PG_MAJOR"; \
	rm -rf /var/lib/apt/lists/*; \
	postgres --version
RUN install --directory --owner postgres --group postgres --mode 3777 /var/run/postgresql
ENV PGDATA /var/lib/postgresql/data
RUN install --directory --owner postgres --group postgres --mode 1777 "$PGDATA"
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
EXPOSE 5432
USER postgres
CMD ["sh", "-c", "initdb --auth=trust > /dev/null && echo 'SELECT 6 * 7' | postgres --single template1"]
