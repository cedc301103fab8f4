-- One step of a save. It is atomic: a script is one transaction of the append-only file.
--
-- KEYS[1] head, KEYS[2] sections, KEYS[3] staged
-- ARGV[1] epoch
-- ARGV[2] number of the owner's call in this epoch: a call that was overtaken changes nothing
-- ARGV[3] step: "change" the snapshot; "begin" a new staged one, "stage" sections of it,
--         "replace" the snapshot by the staged one
-- ARGV[4] header; not read while staging
-- ARGV[5] number of dropped sections, then their names, then name and bytes of each changed one
-- Returns the epoch in force; the step was done if it is ARGV[1]. Returns -1 for an overtaken call.

-- Lua's stack takes some 8,000 values of an unpack; an even number keeps the pairs together.
local MOST = 4000

local held = redis.call("HMGET", KEYS[1], "epoch", "call")
local epoch = tonumber(held[1] or 0)
-- Higher: a newer owner has fenced this one. Lower: Redis lost the take of this epoch.
if epoch ~= tonumber(ARGV[1]) then return epoch end
-- A call that timed out at the client can arrive after the retry of its changes.
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
  -- RENAME costs the same for any size. It fails without a source: an empty state stages nothing.
  if redis.call("EXISTS", KEYS[3]) == 1 then redis.call("RENAME", KEYS[3], KEYS[2]) end
end
local changed = 6 + tonumber(ARGV[5])
-- HDEL first: a section that is both dropped and changed is kept.
each("HDEL", KEYS[2], 6, changed - 1)
each("HSET", staging and KEYS[3] or KEYS[2], changed, #ARGV)
redis.call("HSET", KEYS[1], "call", ARGV[2])
if not staging then redis.call("HSET", KEYS[1], "header", ARGV[4]) end
return epoch
