-- One row a token and UTC day. The sums are exact whatever was retracted, each row counting by its
-- sign. Prices and traders are of the additions inserted: a retraction does not take them back.
-- volume_token sums the amounts of priced swaps alone, so that vwap = volume_usd / volume_token.
-- Small granules: one token's rows are few and are asked for alone.
CREATE TABLE IF NOT EXISTS daily_token_agg
(
    chain LowCardinality(String),
    token String CODEC(ZSTD(1)),
    day Date CODEC(Delta(2), ZSTD(1)),
    trades SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
    buys SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
    unpriced SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
    late SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
    retracted SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
    volume_usd SimpleAggregateFunction(sum, Decimal(38, 6)) CODEC(ZSTD(1)),
    buy_volume_usd SimpleAggregateFunction(sum, Decimal(38, 6)) CODEC(ZSTD(1)),
    volume_token SimpleAggregateFunction(sum, Decimal(76, 18)) CODEC(ZSTD(1)),
    open_usd AggregateFunction(
        argMin, Float64, Tuple(DateTime64(3, 'UTC'), UInt32, UInt64)) CODEC(ZSTD(1)),
    high_usd SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    low_usd SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    close_usd AggregateFunction(
        argMax, Float64, Tuple(DateTime64(3, 'UTC'), UInt32, UInt64)) CODEC(ZSTD(1)),
    traders AggregateFunction(uniqCombined(14), String) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (chain, token, day)
SETTINGS storage_policy = 'tiered', non_replicated_deduplication_window = 10000,
    ttl_only_drop_parts = 1, index_granularity = 256
