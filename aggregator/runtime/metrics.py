"""Every metric of the service, each with one sentence that says what a bad value means.

Names are `swaps_<area>_<thing>_<unit|total>`; labels are bounded: partitions, engines, and codes,
routes and names that stand in the source. docs/metrics.md is made from this file. The ages that an
alert asks for are instants here: `time() - x` goes on growing where a process stands still.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

INGEST_EVENTS = Counter(
    "swaps_ingest_events_total",
    "Kafka messages taken in, good or bad; flat while the topic grows means a stalled consumer.",
    ["partition"],
)
INGEST_DEAD_LETTERS = Counter(
    "swaps_ingest_dead_letters_total",
    "Messages sent to the dead-letter topic; a rise means that a producer sends what we refuse.",
    ["reason"],
)
INGEST_DEAD_LETTERS_CUT = Counter(
    "swaps_ingest_dead_letters_cut_total",
    "Dead letters too large for their topic, sent without all of their bytes; any means that the "
    "originals are lost when the swap topic's retention ends.",
)
INGEST_BAD_RATIO = Gauge(
    "swaps_ingest_bad_ratio",
    "Share of refused messages among the last 1,000 of a partition; above 0.5 its producer or the "
    "topic is wrong.",
    ["partition"],
)
INGEST_UNREADABLE = Gauge(
    "swaps_ingest_unreadable",
    "1 while the Kafka client cannot read a partition's next batch, which /readyz names; the "
    "partition stands still until that batch leaves the log.",
    ["partition"],
)
INGEST_DUPLICATES = Counter(
    "swaps_ingest_duplicates_total",
    "Repeats of a swap, not counted again; a jump means that a producer resends.",
    ["partition"],
)
INGEST_LATE = Counter(
    "swaps_ingest_late_total",
    "Swaps too old for an open bucket, not in the windows; a rise means a slow producer.",
    ["partition"],
)
INGEST_LAG = Gauge(
    "swaps_ingest_lag_offsets",
    "Offsets between what is counted and the log's end; growing means too few aggregators.",
    ["partition"],
)
INGEST_LAG_SECONDS = Gauge(
    "swaps_ingest_lag_seconds",
    "Age of the newest record read while others wait behind it, else 0; above 1 numbers are old.",
    ["partition"],
)
INGEST_JUMPS = Counter(
    "swaps_ingest_jumps_total",
    "Jumps of the Kafka client past unread offsets, read again; many mean a log with holes.",
    ["partition"],
)
INGEST_REJOINS = Counter(
    "swaps_ingest_rejoins_total",
    "Times that the broker fenced this process's KAFKA_INSTANCE_ID and it joined its group anew; "
    "one after a restart of the broker is harmless, more mean two processes of one name.",
    ["group"],
)
INGEST_WATERMARK = Gauge(
    "swaps_ingest_watermark_seconds",
    "Newest event time of a partition, epoch seconds: its age is time() minus it; standing still "
    "means no new swaps.",
    ["partition"],
)
INGEST_LOOP_LATE = Gauge(
    "swaps_ingest_loop_late_seconds",
    "How much later than it was due the aggregator's last heartbeat was made; above 1 its loop is "
    "overloaded and numbers come late.",
)
STORE_CLAIM_SECONDS = Histogram(
    "swaps_store_claim_seconds",
    "Time waited for Redis to decide one batch of markers; above 0.05 Redis is the brake.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
WINDOW_APPLY_SECONDS = Histogram(
    "swaps_window_apply_seconds",
    "Time of applying one batch to the windows; above 0.05 the engine is the brake.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
WINDOW_TOKENS = Gauge(
    "swaps_window_tokens",
    "Tokens held in the state of a partition; memory follows it.",
    ["partition"],
)
WINDOW_BUCKETS = Gauge(
    "swaps_window_buckets",
    "Minute buckets held in the state of a partition; memory follows it.",
    ["partition"],
)
WINDOW_MEMORY = Gauge(
    "swaps_window_memory_bytes",
    "Bytes of the state of a partition, names aside; growing without end means a leak.",
    ["partition"],
)
SNAPSHOT_SECONDS = Histogram(
    "swaps_snapshot_seconds",
    "Time that the hot loop pauses for one snapshot and commit; above 0.02 it delays patches.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
)
SNAPSHOT_SAVED = Gauge(
    "swaps_snapshot_saved_seconds",
    "When a partition's snapshot was saved last, epoch seconds: its age is time() minus it; an age "
    "of minutes means a long replay after a restart.",
    ["partition"],
)
SNAPSHOT_BYTES = Counter(
    "swaps_snapshot_bytes_total",
    "Bytes of sections written to Redis; far above what changes means that minutes are rewritten.",
    ["partition"],
)
PUBSUB_PATCHES = Counter(
    "swaps_pubsub_patches_total",
    "Patches handed to NATS; flat while swaps come in means that publishing is muted or broken.",
    ["partition"],
)
PUBSUB_DROPPED = Counter(
    "swaps_pubsub_dropped_total",
    "Patches that NATS could not take; web nodes notice the hole and ask again.",
    ["partition"],
)
PUBSUB_TRADES_DROPPED = Counter(
    "swaps_pubsub_trades_dropped_total",
    "Trades that were not sent to NATS; web nodes ask the owner for them, a steady rise means that "
    "NATS or the publisher cannot keep up.",
    ["partition"],
)
PUBSUB_SHORTENED = Counter(
    "swaps_pubsub_shortened_total",
    "Messages above NATS's max_payload: a batch of trades is split, an answer loses its oldest "
    "minutes or trades; a rise of `history` means candles that begin late.",
    ["kind"],
)
PUBSUB_BACKLOG = Gauge(
    "swaps_pubsub_backlog_bytes",
    "Bytes that wait for the publisher's thread; at its bound patches and trades are dropped.",
)
HISTORY_QUESTIONS = Counter(
    "swaps_pubsub_questions_total",
    "Web nodes' questions for a token's history, by outcome; `expired` or `refused` that rise mean "
    "more questions than this owner can answer in time.",
    ["outcome"],
)
HISTORY_SECONDS = Histogram(
    "swaps_pubsub_render_seconds",
    "Time to render one answer; answers wait for each other, so far above 0.1 few are in time.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
ARCHIVE_ROWS = Counter(
    "swaps_archive_rows_total",
    "Rows inserted into ClickHouse; flat while swaps come in means that the archive stands still.",
    ["partition"],
)
ARCHIVE_BATCHES = Counter(
    "swaps_archive_batches_total",
    "Batches inserted into ClickHouse; many small ones a second make too many parts.",
    ["partition"],
)
ARCHIVE_BATCH_ROWS = Histogram(
    "swaps_archive_batch_rows",
    "Rows of one batch; far below ARCHIVE_BATCH under load means that ARCHIVE_LINGER is short.",
    buckets=(100, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000),
)
ARCHIVE_RETRIES = Counter(
    "swaps_archive_retries_total",
    "Batches that did not get through and are made again under the same token; a rise means that "
    "ClickHouse is unwell.",
    ["partition"],
)
ARCHIVE_DISK_BYTES = Gauge(
    "swaps_archive_disk_bytes",
    "Compressed bytes of the archive on a disk of ClickHouse (cold is S3), as of the last minute "
    "with an insert; hot growing past its age limit means that parts do not move to S3.",
    ["disk"],
)
ARCHIVE_INSERT_SECONDS = Histogram(
    "swaps_archive_insert_seconds",
    "Time of inserting one batch; growing means that ClickHouse cannot keep up.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ARCHIVE_LAG = Gauge(
    "swaps_archive_lag_offsets",
    "Offsets between what is archived and the log's end; growing means too few archivers.",
    ["partition"],
)
ARCHIVE_AGE = Gauge(
    "swaps_archive_age_seconds",
    "How long the oldest record that is not archived has been in the log; near KAFKA_RETENTION "
    "it will be lost to the archive.",
    ["partition"],
)
ARCHIVE_BUFFERED_BYTES = Gauge(
    "swaps_archive_buffered_bytes",
    "Bytes of records that the archiver holds; at its bound while ClickHouse is slow or down.",
)
ARCHIVE_GAP_OFFSETS = Counter(
    "swaps_archive_gap_offsets_total",
    "Offsets that Kafka no longer held when they were to be archived; any rise is a loss.",
    ["partition"],
)
ARCHIVE_UNREADABLE = Counter(
    "swaps_archive_unreadable_total",
    "Answers of ClickHouse that it cannot read a part of the archive; any at all needs the cure in "
    "docs/operations.md.",
)
ARCHIVE_RESTARTS = Counter(
    "swaps_archive_restarts_total",
    "Times that the archiver stopped by a fault and was started again; a rise means a lasting one.",
)
DEPENDENCY_UP = Gauge(
    "swaps_dependency_up",
    "1 while the last call to an engine worked; 0 means that it is being retried.",
    ["engine"],
)
DEPENDENCY_RETRIES = Counter(
    "swaps_dependency_retries_total",
    "Calls to an engine that were tried again; a rise means that the engine is unwell.",
    ["engine"],
)
CLOCK_DOUBTED = Gauge(
    "swaps_clock_doubted_seconds",
    "How far the host's clock is ahead of the time that has elapsed while that step is not "
    "confirmed, negative where it is behind; not 0 means that somebody or something set the clock.",
)
CLOCK_STEPS = Counter(
    "swaps_clock_steps_total",
    "Steps of the host's clock that were followed after they had been confirmed, by direction "
    "(ahead, back); any means that the host's time is not kept by NTP alone.",
    ["direction"],
)
BOARD_TOKENS = Gauge(
    "swaps_board_tokens",
    "Tokens on this web node's board; fewer than on other nodes means that it has not caught up.",
)
BOARD_PATCHES = Counter(
    "swaps_board_patches_total",
    "Patches that this web node took in; flat while others' rise means that NATS cut it off.",
)
BOARD_GAPS = Counter(
    "swaps_board_gaps_total",
    "Holes in a partition's numbered patches; each is closed by a resync, many mean that NATS or "
    "the node's loop drops.",
)
BOARD_RESYNCS = Counter(
    "swaps_board_resyncs_total",
    "Questions to owners for what is missing, by cause (start, reconnect, new_owner, hole); a rise "
    "of hole means lost patches.",
    ["cause"],
)
BOARD_STALE = Gauge(
    "swaps_board_stale_partitions",
    "Partitions whose numbers may be old on this web node, silent owners among them; above 0 "
    "clients are told that they are stale.",
)
BOARD_LATE = Gauge(
    "swaps_board_late_seconds",
    "How late the owners' heartbeats arrive on this web node, the worst partition; above "
    "STALE_AFTER its numbers are shown as stale.",
)
BOARD_MISPLACED = Gauge(
    "swaps_board_misplaced_tokens",
    "Tokens that arrive on two partitions; above 0 a producer's key is wrong, and the rows of the "
    "second partition are not shown.",
)
BOARD_AGE = Gauge(
    "swaps_board_age_seconds",
    "Age of the newest number on this web node's board; above 3 nothing new arrives.",
)
HTTP_REQUESTS = Counter(
    "swaps_http_requests_total",
    "Answers of the API, the probes and /metrics, by route and status; a share of 5xx is a fault.",
    ["route", "method", "status"],
)
HTTP_SECONDS = Histogram(
    "swaps_http_request_seconds",
    "Time to answer; a p99 above 0.1 of routes without history means a busy event loop.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
AUTH_REFUSED = Counter(
    "swaps_auth_refused_total",
    "Callers refused for their token, by the error's code and the way (http, ws); a jump means an "
    "issuer with wrong keys, or somebody guessing.",
    ["way", "code"],
)
LIMITS_HIT = Counter(
    "swaps_limits_hit_total",
    "Requests, sockets and messages refused by a limit, by its name; a rise means a client gone "
    "wild, or limits that are too low.",
    ["limit"],
)
WS_CONNECTIONS = Gauge(
    "swaps_ws_connections",
    "Open WebSockets of this process; a sudden fall means that clients were cut off.",
)
WS_SUBSCRIPTIONS = Gauge(
    "swaps_ws_subscriptions",
    "Subscriptions of all open WebSockets; the cost of an update follows it.",
)
WS_FRAMES = Counter(
    "swaps_ws_frames_total",
    "Frames handed to clients' sockets; flat while swaps come in means that the hub stands still.",
)
WS_BYTES = Counter(
    "swaps_ws_sent_bytes_total",
    "Bytes of those frames; far above the usual means costly subscriptions.",
)
WS_MESSAGES = Counter(
    "swaps_ws_messages_total",
    "Messages delivered in those frames; far above frames means that clients get them in bunches.",
)
WS_CONFLATED = Counter(
    "swaps_ws_conflated_total",
    "Messages that a newer one of the same topic replaced before they were sent; a share that "
    "rises means slow readers or long intervals.",
)
WS_HELD = Counter(
    "swaps_ws_held_total",
    "Flushes that waited because the client had not taken the last; a rise means slow readers.",
)
WS_CLOSED = Counter(
    "swaps_ws_closed_total",
    "WebSockets that this node closed, by code; a rise of 4008 means slow readers.",
    ["code"],
)
WS_TICK_SECONDS = Histogram(
    "swaps_ws_tick_seconds",
    "Time of one round of the hub (100 a second); above 0.01 it falls behind.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
WS_QUESTIONS = Counter(
    "swaps_ws_questions_total",
    "Questions to owners for a token's history, by outcome; `timeout` that rises means owners that "
    "cannot keep up, `unavailable` partitions without an owner.",
    ["outcome"],
)
WS_STREAM_BYTES = Gauge(
    "swaps_ws_stream_bytes",
    "Estimated memory of the trades and candles that this node holds; near the limits of the "
    "process it takes fewer tokens for a node.",
)
WS_FAULTS = Counter(
    "swaps_ws_faults_total",
    "Rounds of the hub that failed by a fault of the program; any means a bug, see the log.",
)
