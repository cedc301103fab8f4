-- KEYS[1] head
-- Returns {epoch, number of the owner's last call, header}, each nil if absent.
return redis.call("HMGET", KEYS[1], "epoch", "call", "header")
