-- One batch of claims: who is the canonical occurrence of each swap, and what is to be done with it.
--
-- ARGV[1] marker TTL in ms
-- ARGV[2] kinds, one letter a record: A swap on time, L swap in a closed bucket, R retraction
-- ARGV[3] markers, 16 bytes a record
-- ARGV[4] positions "<partition>:<offset>", joined by ","
-- Returns one verdict letter a record: C counted, L late, U undone, V void, D duplicate.
--
-- A marker's value is "<swap>" or "<swap>;<retraction>". <swap> is its canonical position and a
-- letter for what is not "counted": L late, V void; it is empty while only the retraction is known.
-- <retraction> is its canonical position and U or V. A verdict is decided once; a replay of the
-- same position reads it back.
--
-- A batch is one MGET and, for the swaps never seen before, one MSETEX: a call of redis.call costs
-- more than all the rest that is done for an event. A table holds 8,000 values on Lua's stack, so
-- the batch must stay below some 3,900 records.

local ttl, kinds, markers = ARGV[1], ARGV[2], ARGV[3]
local byte, sub = string.byte, string.sub

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

-- The verdict on a swap whose marker is there, and the marker's new value if it changes.
local function decide_swap(swap, retraction, position)
  if swap ~= "" then
    local canonical, verdict = parse(swap)
    return canonical == position and verdict or "D"
  end
  -- The retraction came first: both are void.
  return "V", position .. "V;" .. retraction
end

-- The same of a retraction.
local function decide_retraction(swap, retraction, position)
  if retraction then
    local canonical, verdict = parse(retraction)
    return canonical == position and verdict or "D"
  end
  local _, of_swap = parse(swap)
  local verdict = of_swap == "C" and "U" or "V"
  return verdict, swap .. ";" .. position .. verdict
end

local function decide(value, kind, position)
  local cut = string.find(value, ";", 1, true)
  local swap = cut and sub(value, 1, cut - 1) or value
  local retraction = cut and sub(value, cut + 1) or nil
  if kind == 82 then return decide_retraction(swap, retraction, position) end
  return decide_swap(swap, retraction, position)
end

local verdicts = {}
local i = 0
for position in string.gmatch(ARGV[4], "[^,]+") do
  i = i + 1
  local key, kind = keys[i], byte(kinds, i)
  local value = changed[key] or held[i]
  local verdict
  if not value then
    fresh[#fresh + 1] = key
    if kind == 65 then
      verdict, changed[key] = "C", position
    elseif kind == 76 then
      verdict, changed[key] = "L", position .. "L"
    else
      verdict, changed[key] = "V", ";" .. position .. "V"
    end
  elseif value == position and kind ~= 82 then
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
