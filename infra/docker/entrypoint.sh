#!/bin/sh
# Lays the compiled window engine where numba looks for it, then becomes the command.
# numba takes a cache only from a directory that it may write to, and /opt is read-only.
set -eu

compiled=${COMPILED_ENGINE:-/opt/engine}
if [ ! -d "$NUMBA_CACHE_DIR" ] && [ -d "$compiled" ]; then
    cp -R "$compiled" "$NUMBA_CACHE_DIR.$$"
    mv "$NUMBA_CACHE_DIR.$$" "$NUMBA_CACHE_DIR"
fi
exec "$@"
