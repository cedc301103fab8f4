-- A row's place in the log: topic_id is Kafka's id of the topic ('' in rows from before this
-- column), log_offset repeats `offset`. A swap that was removed may be included again with the same
-- values, so only its offset keeps apart the two rows; a column that exists cannot join the sort
-- key, and a new one can (0 in rows from before it).
ALTER TABLE raw_swaps
    ADD COLUMN IF NOT EXISTS topic_id LowCardinality(String),
    ADD COLUMN IF NOT EXISTS log_offset UInt64 CODEC(Delta(8), ZSTD(1)),
    MODIFY ORDER BY (chain, token, timestamp, tx_hash, log_index, marker, sign, removed, log_offset);
-- leg: 1 in the second row of a swap between two listed tokens. Reserves are the pool's after the
-- swap. block_check: 12 bits of the block hash, 0 for none, as aggregator.seen compares them.
ALTER TABLE raw_swaps
    ADD COLUMN IF NOT EXISTS leg UInt8 CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS quote_token Nullable(String) CODEC(ZSTD(3)),
    ADD COLUMN IF NOT EXISTS reserve_token Nullable(Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS reserve_quote Nullable(Float64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS block_check UInt16 CODEC(T64, ZSTD(1));
-- The letters of aggregator.contracts.verdict. Sign +1: C, L. Sign -1: U, u; such a row is the
-- negative of a row of sign +1 that stands, in all columns that count. Sign 0: the others.
-- marker: the hash of (chain, tx_hash, log_index, token); in rows with topic_id '' it is one of
-- (chain, tx_hash, log_index, block_hash).
ALTER TABLE raw_swaps
    MODIFY COLUMN verdict Enum8('C' = 1, 'L' = 2, 'U' = 3, 'V' = 4, 'T' = 5, 'N' = 6, 'n' = 7,
        'P' = 8, 'u' = 9, 'G' = 10) CODEC(ZSTD(1));
-- by_ingested: an archiver that takes a partition over reads what came in within MARKER_TTL.
-- by_marker: late swaps and retractions are looked up by their marker, over all days.
ALTER TABLE raw_swaps
    ADD INDEX IF NOT EXISTS by_ingested ingested_at TYPE minmax GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_marker marker TYPE bloom_filter(0.001) GRANULARITY 1
