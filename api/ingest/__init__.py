"""Swaps that clients send over HTTP: unpacked, checked by the decoder's rules, written to Kafka.

`service.py` is all that a web node holds before the first request: the decoder and the producer are
loaded when they are needed. The route is `api/http/ingest.py`.
"""
