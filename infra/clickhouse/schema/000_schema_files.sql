-- Which of these files was applied, and with what text.
CREATE TABLE IF NOT EXISTS schema_files
(
    file String,
    digest String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = MergeTree
ORDER BY (file, applied_at)
