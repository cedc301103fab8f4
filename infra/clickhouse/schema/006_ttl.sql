-- Applied again whenever a duration changes. Rows move to the S3 volume, then go, part by part.
ALTER TABLE raw_swaps
    MODIFY TTL toDateTime(timestamp, 'UTC') + INTERVAL {hot_seconds} SECOND TO VOLUME 'cold',
        toDateTime(timestamp, 'UTC') + INTERVAL {keep_seconds} SECOND DELETE;
ALTER TABLE candles_1m
    MODIFY TTL minute + INTERVAL {hot_seconds} SECOND TO VOLUME 'cold',
        minute + INTERVAL {keep_seconds} SECOND DELETE;
ALTER TABLE daily_token_agg
    MODIFY TTL day + INTERVAL {daily_keep_seconds} SECOND DELETE;
ALTER TABLE raw_swaps MODIFY SETTING merge_with_ttl_timeout = {ttl_check_seconds};
ALTER TABLE candles_1m MODIFY SETTING merge_with_ttl_timeout = {ttl_check_seconds};
ALTER TABLE daily_token_agg MODIFY SETTING merge_with_ttl_timeout = {ttl_check_seconds}
