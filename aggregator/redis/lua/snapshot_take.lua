-- A new owner of a partition. What an owner before it had staged is dropped.
--
-- KEYS[1] head, KEYS[2] staged
-- ARGV[1] epoch
-- Returns the epoch before: the take was refused where it is not below ARGV[1].

local held = tonumber(redis.call("HGET", KEYS[1], "epoch") or 0)
if held < tonumber(ARGV[1]) then
  redis.call("HSET", KEYS[1], "epoch", ARGV[1], "call", 0)
  redis.call("UNLINK", KEYS[2])
end
return held
