"""Every metric of the service, each with one sentence that says what a bad value means.

Names are `swaps_<area>_<thing>_<unit|total>`. Labels are bounded: partitions, engines, codes,
routes and names that the code lists, and a source's name and trusted tokens. `manage.py reference`
generates docs/metrics.md from this file. Where an alert needs an age, the metric is an instant:
`time() - x` keeps growing while a process hangs.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

INGEST_EVENTS = Counter(
    "swaps_ingest_events_total",
    "Kafka messages read, good or bad; flat while the topic grows means a stalled consumer.",
    ["partition"],
)
INGEST_DEAD_LETTERS = Counter(
    "swaps_ingest_dead_letters_total",
    "Messages sent to the dead-letter topic; a rise means that a producer sends bad messages.",
    ["reason"],
)
INGEST_DEAD_LETTERS_CUT = Counter(
    "swaps_ingest_dead_letters_cut_total",
    "Dead letters too large for their topic, sent with a part of their bytes; above 0 means that "
    "the originals are lost when the retention of the swap topic ends.",
)
INGEST_BAD_RATIO = Gauge(
    "swaps_ingest_bad_ratio",
    "Share of refused messages among the last 1,000 of a partition; above 0.5 the producer or the "
    "topic is wrong.",
    ["partition"],
)
INGEST_UNREADABLE = Gauge(
    "swaps_ingest_unreadable",
    "1 while the Kafka client cannot read the next batch of a partition (/readyz names it); the "
    "partition makes no progress until that batch leaves the log.",
    ["partition"],
)
INGEST_DUPLICATES = Counter(
    "swaps_ingest_duplicates_total",
    "Repeats of a swap, which are not counted again; a jump means that a producer resends.",
    ["partition"],
)
INGEST_LATE = Counter(
    "swaps_ingest_late_total",
    "Swaps older than GRACE when they arrived, which no window counts; a rise means a slow "
    "producer.",
    ["partition"],
)
INGEST_MISPLACED = Counter(
    "swaps_ingest_misplaced_total",
    "Records away from their token's home partition, each forwarded once; a steady rise means that "
    "producers use another partitioner than KAFKA_PARTITIONER.",
    ["partition"],
)
INGEST_LAG = Gauge(
    "swaps_ingest_lag_offsets",
    "Offsets from the next one to count to the end of the log; growth means too few aggregators.",
    ["partition"],
)
INGEST_LAG_SECONDS = Gauge(
    "swaps_ingest_lag_seconds",
    "Age of the newest record read while later ones wait in the log, else 0; above 1 the numbers "
    "are old.",
    ["partition"],
)
INGEST_JUMPS = Counter(
    "swaps_ingest_jumps_total",
    "Jumps of the Kafka client over unread offsets, which are read again; many mean a log with "
    "holes.",
    ["partition"],
)
INGEST_REJOINS = Counter(
    "swaps_ingest_rejoins_total",
    "Times that the broker fenced this process's KAFKA_INSTANCE_ID and the process joined its "
    "group again; one after a restart of the broker is harmless, more mean two processes with one "
    "name.",
    ["group"],
)
INGEST_WATERMARK = Gauge(
    "swaps_ingest_watermark_seconds",
    "Log clock of a partition: its newest record timestamp, seconds since 1970 (its age is time() "
    "minus it); constant means no new swaps.",
    ["partition"],
)
INGEST_LOOP_LATE = Gauge(
    "swaps_ingest_loop_late_seconds",
    "Delay of the aggregator's last heartbeat; above 1 the loop is overloaded and numbers are "
    "late.",
)
INGEST_IDS = Gauge(
    "swaps_ingest_ids",
    "Ids of swaps that a partition remembers; far above the swaps of MARKER_TTL means that its log "
    "clock stands still.",
    ["partition"],
)
INGEST_IDS_BYTES = Gauge(
    "swaps_ingest_ids_bytes",
    "Bytes of the remembered ids of a partition; unbounded growth means a leak.",
    ["partition"],
)
INGEST_REQUESTS = Counter(
    "swaps_ingest_requests_total",
    "Requests that sent swaps over HTTP, by outcome; a share of `unavailable` or `busy` means that "
    "Kafka does not acknowledge in time, `rejected` a sender of bad events.",
    ["outcome"],
)
INGEST_LINES = Counter(
    "swaps_ingest_lines_total",
    "Events in those requests, by verdict: `accepted`, or the reason of a refusal; a rise of "
    "refusals means a sender of bad events.",
    ["verdict"],
)
INGEST_SECONDS = Histogram(
    "swaps_ingest_request_seconds",
    "Time to check a body and have Kafka acknowledge it; far above 0.05 Kafka is slow.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INGEST_WAITING = Gauge(
    "swaps_ingest_waiting_bytes",
    "Bytes of bodies that are being answered; at INGEST_BYTES further ones are refused.",
)
WINDOW_APPLY_SECONDS = Histogram(
    "swaps_window_apply_seconds",
    "Time to apply one batch to the windows; above 0.05 the window engine is the bottleneck.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
WINDOW_TOKENS = Gauge(
    "swaps_window_tokens",
    "Tokens in the state of a partition; memory grows with it.",
    ["partition"],
)
WINDOW_BUCKETS = Gauge(
    "swaps_window_buckets",
    "Minute buckets in the state of a partition; memory grows with it.",
    ["partition"],
)
WINDOW_MEMORY = Gauge(
    "swaps_window_memory_bytes",
    "Bytes of the state of a partition without names; unbounded growth means a leak.",
    ["partition"],
)
SNAPSHOT_SECONDS = Histogram(
    "swaps_snapshot_seconds",
    "Pause of the hot loop to take one snapshot; above 0.02 it delays patches.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
)
SNAPSHOT_SAVE_SECONDS = Histogram(
    "swaps_snapshot_save_seconds",
    "Time until Redis has one snapshot, on a thread of its own; near SNAPSHOT_INTERVAL Redis is "
    "overloaded, and a restart replays more.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
)
SNAPSHOT_SAVED = Gauge(
    "swaps_snapshot_saved_seconds",
    "Time of a partition's last saved snapshot, seconds since 1970 (its age is time() minus it); "
    "an age of minutes means a long replay after a restart.",
    ["partition"],
)
SNAPSHOT_BYTES = Counter(
    "swaps_snapshot_bytes_total",
    "Bytes of sections written to Redis; far above the size of the changes means that unchanged "
    "minutes are rewritten.",
    ["partition"],
)
PUBSUB_PATCHES = Counter(
    "swaps_pubsub_patches_total",
    "Patches handed to NATS; flat while swaps come in means that publishing is broken.",
    ["partition"],
)
PUBSUB_DROPPED = Counter(
    "swaps_pubsub_dropped_total",
    "Patches that NATS could not take; web nodes notice the hole and resync.",
    ["partition"],
)
PUBSUB_TRADES_DROPPED = Counter(
    "swaps_pubsub_trades_dropped_total",
    "Trades that were not sent to NATS, which web nodes then ask for; a steady rise means that "
    "NATS or the publisher cannot keep up.",
    ["partition"],
)
PUBSUB_SHORTENED = Counter(
    "swaps_pubsub_shortened_total",
    "Messages above NATS's max_payload: a batch of trades is split, an answer loses its oldest "
    "minutes or trades; a rise of `history` means that candles begin late.",
    ["kind"],
)
PUBSUB_BACKLOG = Gauge(
    "swaps_pubsub_backlog_bytes",
    "Bytes that wait for the publisher's thread; at the bound, patches and trades are dropped.",
)
HISTORY_QUESTIONS = Counter(
    "swaps_pubsub_questions_total",
    "Web nodes' questions for a token's history, by outcome; a rise of `expired` or `refused` "
    "means more questions than this owner can answer in time.",
    ["outcome"],
)
HISTORY_SECONDS = Histogram(
    "swaps_pubsub_render_seconds",
    "Time to render one answer; answers are rendered one by one, so far above 0.1 few are in time.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
ARCHIVE_ROWS = Counter(
    "swaps_archive_rows_total",
    "Rows inserted into ClickHouse; flat while swaps come in means that nothing is archived.",
    ["partition"],
)
ARCHIVE_BATCHES = Counter(
    "swaps_archive_batches_total",
    "Batches inserted into ClickHouse; many small ones a second make too many parts.",
    ["partition"],
)
ARCHIVE_BATCH_ROWS = Histogram(
    "swaps_archive_batch_rows",
    "Rows of one batch; far below ARCHIVE_BATCH under load means that ARCHIVE_LINGER is too short.",
    buckets=(100, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000),
)
ARCHIVE_RETRIES = Counter(
    "swaps_archive_retries_total",
    "Batches whose insert failed and is repeated under the same token; a rise means that "
    "ClickHouse is unhealthy.",
    ["partition"],
)
ARCHIVE_DISK_BYTES = Gauge(
    "swaps_archive_disk_bytes",
    "Compressed bytes of the archive on a disk of ClickHouse (cold is S3), as of the last minute "
    "with an insert; steady growth of hot means that parts do not move to S3.",
    ["disk"],
)
ARCHIVE_INSERT_SECONDS = Histogram(
    "swaps_archive_insert_seconds",
    "Time to insert one batch; growth means that ClickHouse cannot keep up.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ARCHIVE_LAG = Gauge(
    "swaps_archive_lag_offsets",
    "Offsets from the next one to archive to the end of the log; growth means too few archivers.",
    ["partition"],
)
ARCHIVE_AGE = Gauge(
    "swaps_archive_age_seconds",
    "Age of the oldest record that is not archived; near KAFKA_RETENTION the archive will lose it.",
    ["partition"],
)
ARCHIVE_BUFFERED_BYTES = Gauge(
    "swaps_archive_buffered_bytes",
    "Bytes of records that the archiver holds; at the bound, ClickHouse is slow or down.",
)
ARCHIVE_GAP_OFFSETS = Counter(
    "swaps_archive_gap_offsets_total",
    "Offsets that Kafka deleted before they were archived; any rise is a loss.",
    ["partition"],
)
ARCHIVE_TOO_OLD = Counter(
    "swaps_archive_too_old_total",
    "Records without a row, because ARCHIVE_KEEP would take it: their swap is older.",
)
ARCHIVE_UNREADABLE = Counter(
    "swaps_archive_unreadable_total",
    "Errors of ClickHouse that it cannot read a part of the archive; above 0 the repair in "
    "docs/operations.md is needed.",
)
ARCHIVE_RESTARTS = Counter(
    "swaps_archive_restarts_total",
    "Restarts of the archiver after a fault; a rise means that the fault persists.",
)
SOURCE_OWNER = Gauge(
    "swaps_source_owner",
    "1 in the process that owns a source, 0 in one that stands by; without a 1 nothing of the "
    "source arrives.",
    ["source"],
)
SOURCE_HEAD = Gauge(
    "swaps_source_head",
    "Newest block number that the chain's node reports; constant means a node that stands still.",
    ["source"],
)
SOURCE_SENT_BLOCK = Gauge(
    "swaps_source_sent_block",
    "Newest block whose swaps are in Kafka; far below swaps_source_head the source lags.",
    ["source"],
)
SOURCE_SENT = Gauge(
    "swaps_source_sent_seconds",
    "Time up to which everything of a source is in Kafka, seconds since 1970 (its lag is time() "
    "minus it); above 60 the numbers are old.",
    ["source"],
)
SOURCE_EVENTS = Counter(
    "swaps_source_events_total",
    "Events in Kafka by kind (swap, retraction, repeat); flat while the chain or exchange trades "
    "means a fault, many retractions an unstable chain, many repeats frequent restarts.",
    ["source", "kind"],
)
SOURCE_DROPPED = Counter(
    "swaps_source_dropped_total",
    "Logs and messages without an event, by reason (not_a_swap, unknown_factory, no_metadata, "
    "undecodable, too_large); a rise of undecodable means that a venue changed its format.",
    ["source", "reason"],
)
SOURCE_UNPRICED = Counter(
    "swaps_source_unpriced_total",
    "Events without USD by reason; a large share means too few trusted tokens or no reference "
    "price.",
    ["source", "reason"],
)
SOURCE_REFERENCE_PRICE = Gauge(
    "swaps_source_reference_price",
    "Reference price of a trusted token in USD; no value while there is none.",
    ["source", "token"],
)
SOURCE_REFERENCE = Gauge(
    "swaps_source_reference_seconds",
    "Time of the swap that last confirmed a reference price, seconds since 1970; after 10 minutes "
    "the price is dropped.",
    ["source", "token"],
)
SOURCE_REFERENCES_MISSING = Gauge(
    "swaps_source_references_missing",
    "Trusted tokens without a reference price; above 0 their swaps have no USD.",
    ["source"],
)
SOURCE_REFERENCE_HELD = Counter(
    "swaps_source_reference_held_total",
    "Moves of a reference price by over 10 % that too few pools confirmed; a rise means an attack, "
    "or a fast market with too few reference pools.",
    ["source", "token"],
)
SOURCE_REORGS = Counter(
    "swaps_source_reorgs_total",
    "Reorganisations that took back blocks whose swaps were sent; a jump means an unstable chain "
    "or node.",
    ["source"],
)
SOURCE_REORG_DEPTH = Gauge(
    "swaps_source_reorg_depth",
    "Blocks taken back by the last reorganisation; near the source's keep_blocks the next one may "
    "stop it.",
    ["source"],
)
SOURCE_CALLS = Counter(
    "swaps_source_calls_total",
    "Calls of nodes and exchanges by method and outcome (ok, refused, limited, failed, timeout); a "
    "share of anything but ok means a bad or an exhausted provider.",
    ["source", "method", "outcome"],
)
SOURCE_RANGE = Gauge(
    "swaps_source_range_blocks",
    "Blocks that a call for logs covers while the source catches up; 1 means that the provider "
    "refuses ranges.",
    ["source"],
)
SOURCE_RECONNECTS = Counter(
    "swaps_source_reconnects_total",
    "New connections after a cut or a silence; a steady rise means a bad network or provider.",
    ["source"],
)
SOURCE_GAPS = Counter(
    "swaps_source_gaps_total",
    "Runs of trades that the connection missed, by outcome (filled, unfilled); unfilled ones are "
    "lost.",
    ["source", "outcome"],
)
SOURCE_JOURNAL_OPEN = Gauge(
    "swaps_source_journal_open",
    "Blocks whose events are announced in the journal and not yet in Kafka; constantly above 0 "
    "means that Kafka does not answer.",
    ["source"],
)
DEPENDENCY_UP = Gauge(
    "swaps_dependency_up",
    "1 if the last call to an engine succeeded; 0 means that the call is being retried.",
    ["engine"],
)
DEPENDENCY_RETRIES = Counter(
    "swaps_dependency_retries_total",
    "Retried calls to an engine; a rise means that the engine is unhealthy.",
    ["engine"],
)
CLOCK_SUSPECT = Gauge(
    "swaps_clock_doubted_seconds",
    "Size of an unconfirmed step of the host's clock against the elapsed time, negative for a step "
    "back; not 0 means that the clock was set.",
)
CLOCK_STEPS = Counter(
    "swaps_clock_steps_total",
    "Large steps of the host's clock that were confirmed and followed, by direction (ahead, back); "
    "above 0 means that not only NTP sets the host's clock.",
    ["direction"],
)
BOARD_TOKENS = Gauge(
    "swaps_board_tokens",
    "Tokens on this web node's board; fewer than on other nodes means that the node lags.",
)
BOARD_PATCHES = Counter(
    "swaps_board_patches_total",
    "Patches that this web node received; flat while other nodes' rise means that NATS cut it off.",
)
BOARD_GAPS = Counter(
    "swaps_board_gaps_total",
    "Holes in the numbers of a partition's patches, each closed by a resync; many mean that NATS "
    "or the node's loop drops messages.",
)
BOARD_RESYNCS = Counter(
    "swaps_board_resyncs_total",
    "Resync requests to owners, by cause (start, reconnect, new_owner, hole); a rise of hole means "
    "lost patches.",
    ["cause"],
)
BOARD_STALE = Gauge(
    "swaps_board_stale_partitions",
    "Partitions whose numbers may be old on this web node, such as those of silent owners; above 0 "
    "clients see them marked as stale.",
)
BOARD_LATE = Gauge(
    "swaps_board_late_seconds",
    "Delay of the owners' heartbeats on this web node, of the worst partition; above STALE_AFTER "
    "its numbers are shown as stale.",
)
BOARD_MISPLACED = Gauge(
    "swaps_board_misplaced_tokens",
    "Tokens that arrive on two partitions; above 0 a producer uses a wrong key, and the rows of "
    "the second partition are not shown.",
)
BOARD_SOURCES = Gauge(
    "swaps_board_sources",
    "Sources by the state that this web node shows (standby, starting, catching_up, live, waiting, "
    "stopped, ended, silent); any silent, standby or stopped one sends nothing.",
    ["state"],
)
BOARD_AGE = Gauge(
    "swaps_board_age_seconds",
    "Age of the newest number on this web node's board; above 3 nothing new arrives.",
)
HTTP_REQUESTS = Counter(
    "swaps_http_requests_total",
    "Responses of the API, the probes and /metrics, by route and status; any share of 5xx is a "
    "fault.",
    ["route", "method", "status"],
)
HTTP_SECONDS = Histogram(
    "swaps_http_request_seconds",
    "Time to respond; a p99 above 0.1 on routes without history means a busy event loop.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
AUTH_REFUSED = Counter(
    "swaps_auth_refused_total",
    "Callers refused for their JWT, by error code and way (http, ws); a jump means an issuer with "
    "wrong keys, or a guessing attacker.",
    ["way", "code"],
)
LIMITS_HIT = Counter(
    "swaps_limits_hit_total",
    "Requests, sockets and messages refused by a limit, by the limit's name; a rise means a "
    "misbehaving client, or limits that are too low.",
    ["limit"],
)
WS_CONNECTIONS = Gauge(
    "swaps_ws_connections",
    "Open WebSockets of this process; a sudden fall means that clients were cut off.",
)
WS_SUBSCRIPTIONS = Gauge(
    "swaps_ws_subscriptions",
    "Subscriptions of all open WebSockets; the cost of an update grows with it.",
)
WS_FRAMES = Counter(
    "swaps_ws_frames_total",
    "Frames handed to clients' sockets; flat while swaps come in means that the hub hangs.",
)
WS_BYTES = Counter(
    "swaps_ws_sent_bytes_total",
    "Bytes of those frames; far above normal means expensive subscriptions.",
)
WS_MESSAGES = Counter(
    "swaps_ws_messages_total",
    "Messages delivered in those frames; far above the number of frames means bursts.",
)
WS_CONFLATED = Counter(
    "swaps_ws_conflated_total",
    "Messages that a newer one of the same topic replaced before they were sent; a rising share "
    "means slow readers or long intervals.",
)
WS_HELD = Counter(
    "swaps_ws_held_total",
    "Flushes that waited because the client had not read the last one; a rise means slow readers.",
)
WS_CLOSED = Counter(
    "swaps_ws_closed_total",
    "WebSockets that this node closed, by code; a rise of 4008 means slow readers.",
    ["code"],
)
WS_TICK_SECONDS = Histogram(
    "swaps_ws_tick_seconds",
    "Time of one round of the hub (100 per second); above 0.01 the hub cannot keep up.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
WS_QUESTIONS = Counter(
    "swaps_ws_questions_total",
    "Questions to owners for a token's history, by outcome; a rise of `timeout` means owners that "
    "cannot keep up, of `unavailable` partitions without an owner.",
    ["outcome"],
)
WS_STREAM_BYTES = Gauge(
    "swaps_ws_stream_bytes",
    "Estimated memory of the trades and candles on this node; near the memory limit of the process "
    "the node needs fewer tokens.",
)
WS_FAULTS = Counter(
    "swaps_ws_faults_total",
    "Rounds of the hub that failed with an exception; above 0 means a bug, see the log.",
)
