-- Feeds candles_1m from each inserted block.
CREATE MATERIALIZED VIEW IF NOT EXISTS candles_1m_view TO candles_1m AS
SELECT
    chain,
    token,
    toStartOfMinute(toDateTime(timestamp, 'UTC')) AS minute,
    sum(toInt64(sign)) AS trades,
    sum(toDecimal128(ifNull(amount_usd, 0), 6) * sign) AS volume_usd,
    sumIf(toDecimal128(ifNull(amount_usd, 0), 6) * sign, side = 'buy') AS buy_volume_usd,
    sumIf(amount * sign, isNotNull(amount_usd)) AS volume_token,
    argMinStateIf(price_usd, (timestamp, `partition`, `offset`), sign > 0) AS open_usd,
    maxIf(price_usd, sign > 0) AS high_usd,
    minIf(price_usd, sign > 0) AS low_usd,
    argMaxStateIf(price_usd, (timestamp, `partition`, `offset`), sign > 0) AS close_usd
FROM raw_swaps
WHERE sign != 0
GROUP BY chain, token, minute
