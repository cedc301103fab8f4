-- The archiver of a partition reports to this run of Redis how far the archive is.
--
-- KEYS[1] checkin:<topic>, KEYS[2] archive:<topic>, KEYS[3] archive:<topic>:<partition>, then the
-- archive:<topic>:<partition> of every partition
-- ARGV[1] frontier: end offset of the claims that the archive has, or will have
-- ARGV[2] "look", or "seeded": the markers of the offsets from ARGV[3] on were restored
-- ARGV[3] the first such offset; ARGV[4] marker TTL in ms
-- Returns -1 if the partition is checked in, else the offset from which claims may be lost.
--
-- The witness is the end offset of the archiver's claims that reached this Redis (claim.lua). It
-- shares the append-only file with the markers. So where the witness is at the frontier, no claim
-- below the frontier is lost; where it is lower, the claims from it on may be.

local frontier, low = tonumber(ARGV[1]), tonumber(ARGV[3])
local held = redis.call("HMGET", KEYS[3], "witness", "low", "frontier", "until")
local witness = tonumber(held[1] or 0)

if ARGV[2] == "look" then
  if witness < frontier then return witness end
else
  local now = tonumber(redis.call("TIME")[1])
  if held[4] and now < tonumber(held[4]) and low <= tonumber(held[3]) then
    -- Redis lost claims once before, and markers of that time are still alive: extend the range
    -- in which an absent marker means "rejected", or records of the first loss would count.
    low = math.min(low, tonumber(held[2]))
    frontier = math.max(frontier, tonumber(held[3]))
  end
  local until_s = now + math.ceil(tonumber(ARGV[4]) / 1000)
  redis.call("HSET", KEYS[3], "low", low, "frontier", frontier, "until", until_s)
  redis.call("HSET", KEYS[3], "witness", math.max(witness, frontier))
end

redis.call("HSET", KEYS[3], "run", RUN_ID)
-- The last archiver to check in opens the topic for claims. RUN_ID is a constant of this run's
-- script text, so a check-in of an earlier run never opens this one.
for i = 4, #KEYS do
  if redis.call("HGET", KEYS[i], "run") ~= RUN_ID then return -1 end
end
redis.call("SET", KEYS[1], RUN_ID)
redis.call("HDEL", KEYS[2], "skipped")
return -1
