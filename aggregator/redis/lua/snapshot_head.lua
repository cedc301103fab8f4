-- KEYS[1] head
-- Returns {epoch, number of its owner's last call, header}, each nil where there is none.
return redis.call("HMGET", KEYS[1], "epoch", "call", "header")
