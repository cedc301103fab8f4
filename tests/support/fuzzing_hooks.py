"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): how it sends what the API takes besides JSON."""

import schemathesis

schemathesis.serializer.alias("application/x-ndjson", "text/plain")
