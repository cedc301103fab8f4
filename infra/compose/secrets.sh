#!/bin/sh
# Creates the secrets that docker-compose.yml reads: `infra/compose/secrets.sh [DIRECTORY]`.
# Existing files are kept, so the script may run again. Put the public key of your own issuer in
# DIRECTORY/jwt_public_key before the first run; otherwise the script creates a demo issuer with its
# private key in DIRECTORY/issuer.
set -eu

directory=${1:-secrets}
umask 077
mkdir -p "$directory"
cd "$directory"

# Containers run as different users, so the files are readable by all and the directory is not.
put() {
    [ -e "$1" ] || { cat > "$1.part" && chmod 444 "$1.part" && mv "$1.part" "$1"; }
}
random() {
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

random | put django_secret_key
random | put clickhouse_password
random | put minio_root_password
random | put s3_secret_key
random | put grafana_password
printf root | put minio_root_user
printf swaps | put s3_access_key
printf 'requirepass %s\n' "$(random)" | put redis_auth
printf 'authorization { token: "%s" }\n' "$(random)" | put nats_auth

password=$(sed -n 's/^requirepass //p' redis_auth)
printf 'redis://:%s@redis:6379/0' "$password" | put redis_url
token=$(sed -n 's/.*token: "\(.*\)".*/\1/p' nats_auth)
printf 'nats://%s@nats:4222' "$token" | put nats_url
printf 'clickhouse://default:%s@clickhouse:9000/default' "$(cat clickhouse_password)" | put clickhouse_url

if [ ! -e jwt_public_key ]; then
    mkdir -p issuer
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out issuer/private.pem 2>/dev/null
    openssl pkey -in issuer/private.pem -pubout | put jwt_public_key
fi
