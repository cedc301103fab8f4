-- A new owner takes a partition. Sections that an earlier owner staged are dropped.
--
-- KEYS[1] head, KEYS[2] staged
-- ARGV[1] epoch
-- Returns the epoch before; the take was refused unless it is below ARGV[1].

local held = tonumber(redis.call("HGET", KEYS[1], "epoch") or 0)
-- Strictly higher: with an equal epoch two owners could both save.
if held < tonumber(ARGV[1]) then
  redis.call("HSET", KEYS[1], "epoch", ARGV[1], "step", 0)
  redis.call("UNLINK", KEYS[2])
end
return held
