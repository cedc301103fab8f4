-- One step of saving a partition's board rows.
--
-- KEYS[1] head, KEYS[2] rows
-- ARGV[1] epoch; ARGV[2] "1" where what was saved before is dropped first
-- ARGV[3] seq that the rows saved so far must be of, read where nothing is dropped
-- ARGV[4] seq, ARGV[5] next_offset, ARGV[6] partitions of the topic: the new head, where seq is not ""
-- ARGV[7] how many rows go, then their token ids, then token id, row of each changed one
-- Returns 1 where it was done, 0 where an owner of a higher epoch saves, -1 where the rows before
-- are not there any more.

local MOST = 4000

local held = redis.call("HMGET", KEYS[1], "epoch", "seq")
if tonumber(held[1] or 0) > tonumber(ARGV[1]) then return 0 end
if ARGV[2] == "1" then
  redis.call("UNLINK", KEYS[1], KEYS[2])
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
