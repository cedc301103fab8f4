-- A backfill raises the epoch of a partition before and after each insert, so it is odd while the
-- insert is under way. An archiver reads it before each insert of its own: while it is odd the
-- archiver waits, and where it has risen the archiver learns the rows of the last MARKER_TTL again.
CREATE TABLE IF NOT EXISTS archive_epochs
(
    topic_id String,
    `partition` UInt32,
    epoch UInt64,
    raised_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (topic_id, `partition`, epoch)
