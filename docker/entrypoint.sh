#!/bin/sh
# Secrets come as files: NAME_FILE=/run/secrets/name becomes NAME.
# With RAY_JOIN=HOST:PORT this container joins that Ray cluster first, to drive studies and to train none.
# With STUDIES=DIR an empty folder, one that was not mounted, is refused.
set -eu

for name in PGPASSWORD MLFLOW_TRACKING_PASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done

if [ -n "${STUDIES:-}" ] && [ -z "$(ls -A "$STUDIES" 2>/dev/null)" ]; then
    echo "$STUDIES: must hold your studies, got nothing; mount the folder with your study.yaml there" >&2
    exit 2
fi

if [ -n "${RAY_JOIN:-}" ]; then
    if ! said=$(ray start --address="$RAY_JOIN" --num-cpus=0 --num-gpus=0 --disable-usage-stats 2>&1); then
        echo "$said" >&2
        echo "$RAY_JOIN: no Ray cluster can be joined; start it with docker compose up --detach --wait" >&2
        exit 4
    fi
fi

exec "$@"
