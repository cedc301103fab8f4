-- Every canonical swap and retraction, one row each; duplicates and dead letters are not here.
-- sign: +1 an addition (verdict C counted, L late), -1 the retraction that undoes one (U), 0 what
-- changes nothing (V: an addition or a retraction whose partner was decided the other way round).
-- A swap counts where the signs of its marker add up to 1. The marker and not the event id is the
-- swap's identity: a swap that a reorganised chain includes again in another block is a new one.
-- The sort key keeps apart all rows that differ in meaning; equal keys are the same row inserted
-- twice. event_id is not stored: the 33 bytes a row would repeat chain, tx_hash and log_index.
-- Small granules: a page of one token's trades is asked for alone.
CREATE TABLE IF NOT EXISTS raw_swaps
(
    chain LowCardinality(String),
    token String CODEC(ZSTD(3)),
    timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    event_id String ALIAS concat(chain, ':', tx_hash, ':', toString(log_index)),
    sign Int8 CODEC(ZSTD(1)),
    removed Bool DEFAULT sign < 0 CODEC(ZSTD(1)),
    tx_hash String CODEC(ZSTD(1)),
    log_index UInt64 CODEC(T64, ZSTD(1)),
    block_number Nullable(UInt64) CODEC(Delta(8), ZSTD(1)),
    block_hash Nullable(String) CODEC(ZSTD(3)),
    symbol LowCardinality(Nullable(String)),
    quote LowCardinality(Nullable(String)),
    venue LowCardinality(Nullable(String)),
    pool Nullable(String) CODEC(ZSTD(1)),
    trader Nullable(String) CODEC(ZSTD(3)),
    side Enum8('buy' = 1, 'sell' = 2) CODEC(ZSTD(1)),
    amount Decimal(76, 18) CODEC(ZSTD(1)),
    amount_usd Nullable(Decimal(18, 6)) CODEC(T64, ZSTD(1)),
    price_usd Nullable(Float64) CODEC(FPC(12), ZSTD(1)),
    marker FixedString(16) CODEC(NONE),
    verdict Enum8('C' = 1, 'L' = 2, 'U' = 3, 'V' = 4) CODEC(ZSTD(1)),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    ingested_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX by_offset `offset` TYPE minmax GRANULARITY 8
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(timestamp, 'UTC')
PRIMARY KEY (chain, token, timestamp)
ORDER BY (chain, token, timestamp, tx_hash, log_index, marker, sign, removed)
SETTINGS storage_policy = 'tiered', non_replicated_deduplication_window = 10000,
    ttl_only_drop_parts = 1, index_granularity = 1024
