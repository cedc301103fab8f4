-- One step of a save, all of it or nothing: a script is one transaction of the append-only file.
--
-- KEYS[1] head, KEYS[2] sections, KEYS[3] staged
-- ARGV[1] epoch
-- ARGV[2] number of the owner's call in this epoch: one that was overtaken changes nothing
-- ARGV[3] step: "change" the snapshot; "begin" a new one aside, "stage" sections of it,
--         "replace" the snapshot by what is staged
-- ARGV[4] header; not read while staging
-- ARGV[5] how many sections are dropped, then their names, then name, bytes of each changed one
-- Returns the epoch in force: it was done where that is ARGV[1]; -1 where the call was overtaken.

-- Lua's stack takes some 8,000 values of an unpack; an even number keeps the pairs together.
local MOST = 4000

local held = redis.call("HMGET", KEYS[1], "epoch", "call")
local epoch = tonumber(held[1] or 0)
if epoch ~= tonumber(ARGV[1]) then return epoch end
if tonumber(ARGV[2]) <= tonumber(held[2]) then return -1 end

local function each(command, key, first, last)
  for i = first, last, MOST do
    redis.call(command, key, unpack(ARGV, i, math.min(i + MOST - 1, last)))
  end
end

local step = ARGV[3]
local staging = step == "begin" or step == "stage"
if step == "begin" then
  redis.call("UNLINK", KEYS[3])
elseif step == "replace" then
  redis.call("UNLINK", KEYS[2])
  if redis.call("EXISTS", KEYS[3]) == 1 then redis.call("RENAME", KEYS[3], KEYS[2]) end
end
local changed = 6 + tonumber(ARGV[5])
each("HDEL", KEYS[2], 6, changed - 1)
each("HSET", staging and KEYS[3] or KEYS[2], changed, #ARGV)
redis.call("HSET", KEYS[1], "call", ARGV[2])
if not staging then redis.call("HSET", KEYS[1], "header", ARGV[4]) end
return epoch
