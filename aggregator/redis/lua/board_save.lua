-- One step of saving the board rows of a partition.
--
-- KEYS[1] head, KEYS[2] rows
-- ARGV[1] epoch; ARGV[2] "1" to drop first what was saved before
-- ARGV[3] seq of the rows that must have been saved before; not read if they are dropped
-- ARGV[4] seq, ARGV[5] next_offset, ARGV[6] partitions of the topic: the new head, unless seq is ""
-- ARGV[7] number of dropped rows, then their token ids, then token id and row of each changed one
-- Returns 1 if the step was done, 0 if an owner of a higher epoch saves, -1 if the rows of ARGV[3]
-- are gone.

-- Lua's stack takes some 8,000 values of an unpack; an even number keeps the pairs together.
local MOST = 4000

local held = redis.call("HMGET", KEYS[1], "epoch", "seq")
if tonumber(held[1] or 0) > tonumber(ARGV[1]) then return 0 end
if ARGV[2] == "1" then
  -- UNLINK frees a large hash in the background; DEL would block other calls meanwhile.
  redis.call("UNLINK", KEYS[1], KEYS[2])
  -- The head has no seq from here to the last step: a reader then ignores the half-saved rows.
  redis.call("HSET", KEYS[1], "epoch", ARGV[1])
elseif held[1] ~= ARGV[1] or (held[2] or "") ~= ARGV[3] then
  return -1
end

local function each(command, first, last)
  for i = first, last, MOST do
    redis.call(command, KEYS[2], unpack(ARGV, i, math.min(i + MOST - 1, last)))
  end
end

local changed = 8 + tonumber(ARGV[7])
each("HDEL", 8, changed - 1)
each("HSET", changed, #ARGV)
if ARGV[4] ~= "" then
  redis.call("HSET", KEYS[1], "seq", ARGV[4], "next_offset", ARGV[5], "partitions", ARGV[6])
end
return 1
