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

local ttl, kinds, markers = ARGV[1], ARGV[2], ARGV[3]
local verdicts = {}
local i = 0

local function parse(entry)
  local position, verdict = string.match(entry, "^(%d+:%d+)(%a?)$")
  if position and verdict == "" then verdict = "C" end
  return position, verdict
end

local function decide_swap(key, swap, retraction, position)
  if swap ~= "" then
    local held, verdict = parse(swap)
    return held == position and verdict or "D"
  end
  -- The retraction came first: both are void.
  redis.call("SET", key, position .. "V;" .. retraction, "KEEPTTL")
  return "V"
end

local function decide_retraction(key, swap, retraction, position)
  if retraction then
    local held, verdict = parse(retraction)
    return held == position and verdict or "D"
  end
  local _, of_swap = parse(swap)
  local verdict = of_swap == "C" and "U" or "V"
  redis.call("SET", key, swap .. ";" .. position .. verdict, "KEEPTTL")
  return verdict
end

for position in string.gmatch(ARGV[4], "[^,]+") do
  local key = "dedupe:" .. string.sub(markers, i * 16 + 1, i * 16 + 16)
  i = i + 1
  local kind = string.byte(kinds, i)
  local fresh = position
  if kind == 76 then fresh = position .. "L" elseif kind == 82 then fresh = ";" .. position .. "V" end
  local value = redis.call("SET", key, fresh, "NX", "GET", "PX", ttl)
  local verdict
  if not value then
    verdict = kind == 65 and "C" or kind == 76 and "L" or "V"
  elseif value == position and kind ~= 82 then
    verdict = "C"
  else
    local cut = string.find(value, ";", 1, true)
    local swap = cut and string.sub(value, 1, cut - 1) or value
    local retraction = cut and string.sub(value, cut + 1) or nil
    if kind == 82 then
      verdict = decide_retraction(key, swap, retraction, position)
    else
      verdict = decide_swap(key, swap, retraction, position)
    end
  end
  verdicts[i] = verdict
end
return table.concat(verdicts)
