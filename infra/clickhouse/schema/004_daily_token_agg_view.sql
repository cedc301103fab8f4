-- Feeds daily_token_agg from each inserted block. Rows of sign 0 add nothing and make no row.
CREATE MATERIALIZED VIEW IF NOT EXISTS daily_token_agg_view TO daily_token_agg AS
SELECT
    chain,
    token,
    toDate(timestamp, 'UTC') AS day,
    sum(toInt64(sign)) AS trades,
    sumIf(toInt64(sign), side = 'buy') AS buys,
    sumIf(toInt64(sign), isNull(amount_usd)) AS unpriced,
    toInt64(countIf(verdict = 'L')) AS late,
    toInt64(countIf(sign < 0)) AS retracted,
    sum(toDecimal128(ifNull(amount_usd, 0), 6) * sign) AS volume_usd,
    sumIf(toDecimal128(ifNull(amount_usd, 0), 6) * sign, side = 'buy') AS buy_volume_usd,
    sumIf(amount * sign, isNotNull(amount_usd)) AS volume_token,
    argMinStateIf(price_usd, (timestamp, `partition`, `offset`), sign > 0) AS open_usd,
    maxIf(price_usd, sign > 0) AS high_usd,
    minIf(price_usd, sign > 0) AS low_usd,
    argMaxStateIf(price_usd, (timestamp, `partition`, `offset`), sign > 0) AS close_usd,
    uniqCombinedStateIf(14)(trader, sign > 0) AS traders
FROM raw_swaps
WHERE sign != 0
GROUP BY chain, token, day
