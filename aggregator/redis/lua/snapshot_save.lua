-- One step of a save. It is atomic: a script is one transaction of the append-only file.
--
-- KEYS[1] head, KEYS[2] sections, KEYS[3] staged, then keys of blocks
-- ARGV[1] epoch
-- ARGV[2] number of this step among all steps of the owner in its epoch
-- ARGV[3] which step:
--   "change"  changes what is saved, if that is the save ARGV[5]
--   "begin"   begins a whole save with no staged section
--   "stage"   adds sections to the staged ones
--   "block"   writes a block that Redis lacks, or that it holds with other words
--   "replace" ends the whole save: the staged sections become the saved ones
-- ARGV[4] this save, ARGV[5] the save that it follows: "<epoch>:<call>"
-- ARGV[6] format, ARGV[7] header: read in "change" and "replace"
-- ARGV[8] how long Redis keeps a block, ms
-- ARGV[9] how many of the blocks in KEYS are written, or in "replace" must exist. The keys that
--         follow them are deleted.
-- ARGV[10] number of dropped sections
-- then the bytes of the written blocks, the names of dropped sections, and the name and bytes of
-- each changed section
-- Returns {epoch in force, what was done}:
--   "done"; "saved": Redis holds this save already; "whole": it holds another one than ARGV[5];
--   "missing": a named block is absent;
--   "lost": Redis lost earlier steps of this whole save; "fenced", "overtaken": nothing was done

-- Lua's stack takes some 8,000 values of an unpack; an even number keeps the pairs together.
local MOST = 4000

local held = redis.call("HMGET", KEYS[1], "epoch", "step", "save")
local epoch, mine = tonumber(held[1] or 0), tonumber(ARGV[1])
if epoch > mine then return {epoch, "fenced"} end

-- Without `last` Redis has lost the take of this epoch. The owner keeps it, so it is raised below.
local last = epoch == mine and tonumber(held[2] or 0) or nil
local number, step = tonumber(ARGV[2]), ARGV[3]
-- A step that timed out at the client can arrive after later ones.
if last and number <= last then return {epoch, "overtaken"} end
-- The steps of a whole save follow each other without a gap. After a failover that cut some of them
-- off, the staged sections are incomplete.
local first = step == "change" or step == "begin"
if not first and last ~= number - 1 then return {epoch, "lost"} end

-- Comes first because a server without memory refuses it: then nothing is half done.
redis.call("HSET", KEYS[1], "epoch", ARGV[1], "step", ARGV[2])

-- The answer to this very save was lost, and the owner repeats it.
if first and held[3] == ARGV[4] then return {mine, "saved"} end
if step == "change" and held[3] ~= ARGV[5] then return {mine, "whole"} end

local function each(command, key, values, from, to)
  for i = from, to, MOST do
    local upto = math.min(i + MOST - 1, to)
    if key then
      redis.call(command, key, unpack(values, i, upto))
    else
      redis.call(command, unpack(values, i, upto))
    end
  end
end

local blocks = tonumber(ARGV[9])
local dropped = 11
if step == "change" or step == "block" then
  dropped = 11 + blocks
  for i = 1, blocks do
    -- The caller compared: a block that exists has other words. Then the saved state was made by
    -- another reading of the log, for example with another GRACE, and the owner could not use it.
    -- It is given up here, so that it is never loaded with blocks of this reading.
    if step == "block" and redis.call("EXISTS", KEYS[3 + i]) == 1 then
      redis.call("HDEL", KEYS[1], "save", "format", "header")
    end
    redis.call("SET", KEYS[3 + i], ARGV[10 + i], "PX", ARGV[8])
  end
elseif step == "begin" then
  redis.call("UNLINK", KEYS[3])
elseif step == "replace" then
  for i = 4, 3 + blocks, MOST do
    local upto = math.min(i + MOST - 1, 3 + blocks)
    if redis.call("EXISTS", unpack(KEYS, i, upto)) < upto - i + 1 then return {mine, "missing"} end
  end
  redis.call("UNLINK", KEYS[2])
  -- RENAME costs the same for any size. It fails without a source: an empty state stages nothing.
  if redis.call("EXISTS", KEYS[3]) == 1 then redis.call("RENAME", KEYS[3], KEYS[2]) end
end

local changed = dropped + tonumber(ARGV[10])
-- HDEL first: a section that is both dropped and changed is kept.
each("HDEL", KEYS[2], ARGV, dropped, changed - 1)
each("HSET", step == "stage" and KEYS[3] or KEYS[2], ARGV, changed, #ARGV)
if step == "change" or step == "replace" then
  redis.call("HSET", KEYS[1], "save", ARGV[4], "format", ARGV[6], "header", ARGV[7])
  each("UNLINK", nil, KEYS, 4 + blocks, #KEYS)
end
return {mine, "done"}
