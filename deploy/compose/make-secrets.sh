#!/bin/sh
# Makes the passwords of deploy/compose.yaml, once, each where only its readers can see it. For any POSIX shell.
# Folders and owners can be given, so that it can be tried outside of a container.
set -eu
gateway=${GATEWAY_SECRETS:-/run/gateway} rabbitmq=${RABBITMQ_SECRETS:-/run/rabbitmq} grafana=${GRAFANA_SECRETS:-/run/grafana}
definitions=${DEFINITIONS:-/definitions.json}
umask 077

random() {
  od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n'
}

# keep FILE OWNER: standard input, whole or not at all, readable by its owner alone.
keep() {
  cat >"$1.new"
  chmod 0400 "$1.new"
  if [ -n "$2" ]; then chown "$2" "$1.new"; fi
  mv "$1.new" "$1"
}

if [ ! -e "$gateway/amqp-uri" ] || [ ! -e "$rabbitmq/definitions.json" ]; then
  password=$(random)
  # The hand-made part of the file is the rights; the passwords are all that is put in.
  sed -e "s/@GATEWAY_PASSWORD@/$password/" -e "s/@ORDERS_PASSWORD@/$(random)/" -e "s/@ADMIN_PASSWORD@/$(random)/" \
    "$definitions" | keep "$rabbitmq/definitions.json" "${RABBITMQ_OWNER-rabbitmq}"
  printf 'amqp://gateway:%s@rabbitmq:5672/payments' "$password" | keep "$gateway/amqp-uri" "${GATEWAY_OWNER-65532}"
fi
[ -e "$gateway/admin-token" ] || random | keep "$gateway/admin-token" "${GATEWAY_OWNER-65532}"
[ -e "$grafana/admin-password" ] || random | keep "$grafana/admin-password" "${GRAFANA_OWNER-472}"
