-- One row a token and UTC minute; longer candles are merged from these when they are read. What
-- is said of sums and prices in daily_token_agg holds here too.
CREATE TABLE IF NOT EXISTS candles_1m
(
    chain LowCardinality(String),
    token String CODEC(ZSTD(1)),
    minute DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    trades SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
    volume_usd SimpleAggregateFunction(sum, Decimal(38, 6)) CODEC(ZSTD(1)),
    buy_volume_usd SimpleAggregateFunction(sum, Decimal(38, 6)) CODEC(ZSTD(1)),
    volume_token SimpleAggregateFunction(sum, Decimal(76, 18)) CODEC(ZSTD(1)),
    open_usd AggregateFunction(
        argMin, Float64, Tuple(DateTime64(3, 'UTC'), UInt32, UInt64)) CODEC(ZSTD(1)),
    high_usd SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    low_usd SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    close_usd AggregateFunction(
        argMax, Float64, Tuple(DateTime64(3, 'UTC'), UInt32, UInt64)) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(minute, 'UTC')
ORDER BY (chain, token, minute)
SETTINGS storage_policy = 'tiered', non_replicated_deduplication_window = 10000,
    ttl_only_drop_parts = 1, index_granularity = 1024
