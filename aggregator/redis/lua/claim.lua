-- One batch of claims: who is the canonical occurrence of each swap, and what is to be done with it.
--
-- KEYS[1] checkin:<topic>, KEYS[2] archive:<topic>:<partition>: only where there is an archive
-- ARGV[1] marker TTL in ms
-- ARGV[2] kinds, one letter a record: A swap on time, L swap in a closed bucket, R retraction,
--         r retraction as the archive asks: U where the swap was late, too, for it is archived
-- ARGV[3] markers, 16 bytes a record
-- ARGV[4] positions "<partition>:<offset>", joined by ","
-- ARGV[5] the offset behind the last of them where the archiver asks, else ""
-- Returns one verdict letter a record: C counted, L late, U undone, V void, D duplicate.
--
-- A marker's value is "<swap>" or "<swap>;<retraction>". <swap> is its canonical position and a
-- letter for what is not "counted": L late, V void; it is empty while only the retraction is known.
-- <retraction> is its canonical position and U or V. A verdict is decided once; a replay of the
-- same position reads it back.
--
-- In a new run of Redis nothing is claimed until the archivers have checked in (checkin.lua). Where
-- one found that Redis had lost claims, [low, frontier) are the offsets whose claims were made again
-- from the archive: a record there whose claim is absent was rejected, for as long as markers live.
--
-- A batch is one MGET and, for the swaps never seen before, one MSETEX: a call of redis.call costs
-- more than all the rest that is done for an event. A table holds 8,000 values on Lua's stack, so
-- the batch must stay below some 3,900 records.

local ttl, kinds, markers = ARGV[1], ARGV[2], ARGV[3]
local byte, sub = string.byte, string.sub

local low, frontier = 0, 0
if #KEYS > 0 then
  if redis.call("GET", KEYS[1]) ~= RUN_ID then
    return redis.error_reply("NOCHECKIN the archivers have not all checked in with this run of Redis")
  end
  local range = redis.call("HMGET", KEYS[2], "low", "frontier", "until")
  if range[3] and tonumber(redis.call("TIME")[1]) < tonumber(range[3]) then
    low, frontier = tonumber(range[1]), tonumber(range[2])
  end
  if ARGV[5] ~= "" then
    local witness = tonumber(redis.call("HGET", KEYS[2], "witness") or 0)
    if tonumber(ARGV[5]) > witness then redis.call("HSET", KEYS[2], "witness", ARGV[5]) end
  end
end

local keys = {}
for i = 1, #kinds do keys[i] = "dedupe:" .. sub(markers, i * 16 - 15, i * 16) end
local held = redis.call("MGET", unpack(keys))
local changed = {} -- key to value, where this batch has changed it
local fresh = {}   -- the keys that this batch makes

local function parse(entry)
  local position, verdict = string.match(entry, "^(%d+:%d+)(%a?)$")
  if position and verdict == "" then verdict = "C" end
  return position, verdict
end

local function rejected(position)
  if frontier == 0 then return false end
  local offset = tonumber(string.match(position, ":(%d+)$"))
  return offset >= low and offset < frontier
end

-- The verdict on a swap whose marker is there, and the marker's new value if it changes.
local function decide_swap(swap, retraction, position)
  if swap ~= "" then
    local canonical, verdict = parse(swap)
    return canonical == position and verdict or "D"
  end
  if rejected(position) then return "D" end
  -- The retraction came first: both are void.
  return "V", position .. "V;" .. retraction
end

-- The same of a retraction.
local function decide_retraction(swap, retraction, position, kind)
  local _, of_swap = parse(swap)
  local verdict, amended
  if retraction then
    local canonical
    canonical, verdict = parse(retraction)
    if canonical ~= position then return "D" end
  else
    if rejected(position) then return "D" end
    verdict = of_swap == "C" and "U" or "V"
    amended = swap .. ";" .. position .. verdict
  end
  if kind == 114 and of_swap == "L" then verdict = "U" end
  return verdict, amended
end

local function decide(value, kind, position)
  local cut = string.find(value, ";", 1, true)
  local swap = cut and sub(value, 1, cut - 1) or value
  local retraction = cut and sub(value, cut + 1) or nil
  if kind == 82 or kind == 114 then return decide_retraction(swap, retraction, position, kind) end
  return decide_swap(swap, retraction, position)
end

local verdicts = {}
local i = 0
for position in string.gmatch(ARGV[4], "[^,]+") do
  i = i + 1
  local key, kind = keys[i], byte(kinds, i)
  local value = changed[key] or held[i]
  local verdict
  if not value and rejected(position) then
    verdict = "D"
  elseif not value then
    fresh[#fresh + 1] = key
    if kind == 65 then
      verdict, changed[key] = "C", position
    elseif kind == 76 then
      verdict, changed[key] = "L", position .. "L"
    else
      verdict, changed[key] = "V", ";" .. position .. "V"
    end
  elseif value == position and kind ~= 82 and kind ~= 114 then
    verdict = "C"
  else
    local amended
    verdict, amended = decide(value, kind, position)
    if amended then
      changed[key] = amended
      if held[i] then redis.call("SET", key, amended, "KEEPTTL") end
    end
  end
  verdicts[i] = verdict
end

if #fresh > 0 then
  local entries = {}
  for n, key in ipairs(fresh) do
    entries[2 * n - 1], entries[2 * n] = key, changed[key]
  end
  entries[#entries + 1], entries[#entries + 2] = "PX", ttl
  local stored = redis.pcall("MSETEX", #fresh, unpack(entries))
  if type(stored) == "table" and stored.err then
    -- A server before Valkey 9.1 or Redis 8.4 does not know it; any other fault comes again here.
    for _, key in ipairs(fresh) do redis.call("SET", key, changed[key], "PX", ttl) end
  end
end
return table.concat(verdicts)
