-- Decides one batch of claims: which record is the canonical occurrence of its swap, and whether it
-- counts.
--
-- KEYS[1] checkin:<topic>, KEYS[2] archive:<topic>:<partition>: only if there is an archive
-- ARGV[1] marker TTL in ms
-- ARGV[2] kinds, one letter per record: A swap on time, L swap in a closed bucket, R retraction,
--         r retraction as an archiver claims it: U for a late swap too, because it was archived
-- ARGV[3] markers, 16 bytes per record
-- ARGV[4] positions "<partition>:<offset>", joined by ","
-- ARGV[5] the end offset of the batch if an archiver claims, else ""
-- Returns one verdict letter per record: C counted, L late, U undone, V void, D duplicate.
--
-- The value of a marker is "<swap>" or "<swap>;<retraction>". <swap> is the canonical position of
-- the swap, followed by a letter unless it is counted: L late, V void. It is empty while only the
-- retraction is known. <retraction> is its canonical position and U or V. A verdict is decided
-- once; a replay of the same position reads it back. That makes a claim idempotent.
--
-- In a new run of Redis nothing is claimed until the archivers have checked in (checkin.lua). If an
-- archiver found that Redis had lost claims, [low, frontier) are the offsets whose markers were
-- restored from the archive. The archive has no row for a record that was rejected, so there a
-- record without a marker was rejected, for as long as markers live.
--
-- A batch costs one MGET and, for new swaps, one MSETEX: one redis.call costs more than all other
-- work on a record. Lua's stack takes some 8,000 values of an unpack, and MSETEX gets two per
-- record, so a batch must stay below some 3,900 records.

local ttl, kinds, markers = ARGV[1], ARGV[2], ARGV[3]
local byte, sub = string.byte, string.sub

local low, frontier = 0, 0
if #KEYS > 0 then
  -- Claims before the check-in could count a swap again whose marker is lost and not yet restored.
  if redis.call("GET", KEYS[1]) ~= RUN_ID then
    return redis.error_reply("NOCHECKIN the archivers have not all checked in with this run of Redis")
  end
  local range = redis.call("HMGET", KEYS[2], "low", "frontier", "until")
  -- After `until` every lost marker would have expired anyway, so nothing is rejected any more.
  if range[3] and tonumber(redis.call("TIME")[1]) < tonumber(range[3]) then
    low, frontier = tonumber(range[1]), tonumber(range[2])
  end
  if ARGV[5] ~= "" then
    -- Written in the same script as the markers: after a crash the append-only file has both or
    -- neither, so the witness says up to where claims survived. It never decreases on a replay.
    local witness = tonumber(redis.call("HGET", KEYS[2], "witness") or 0)
    if tonumber(ARGV[5]) > witness then redis.call("HSET", KEYS[2], "witness", ARGV[5]) end
  end
end

local keys = {}
for i = 1, #kinds do keys[i] = "dedupe:" .. sub(markers, i * 16 - 15, i * 16) end
local held = redis.call("MGET", unpack(keys))
-- A batch may hold a swap twice, or a swap and its retraction. `held` is from before the batch, so
-- later records read `changed` first.
local changed = {} -- key to value, if this batch changed it
local fresh = {}   -- the keys that this batch creates

local function parse(entry)
  local position, verdict = string.match(entry, "^(%d+:%d+)(%a?)$")
  if position and verdict == "" then verdict = "C" end
  return position, verdict
end

-- Whether a record without a marker was rejected before Redis lost claims; see the head.
local function rejected(position)
  if frontier == 0 then return false end
  local offset = tonumber(string.match(position, ":(%d+)$"))
  return offset >= low and offset < frontier
end

-- Returns the verdict on a swap whose marker exists, and the marker's new value if it changes.
local function decide_swap(swap, retraction, position)
  if swap ~= "" then
    -- The canonical position is a replay and gets the verdict of then; any other is a repeat.
    local canonical, verdict = parse(swap)
    return canonical == position and verdict or "D"
  end
  if rejected(position) then return "D" end
  -- The retraction came before its swap: neither may change a window, both are void.
  return "V", position .. "V;" .. retraction
end

-- The same for a retraction.
local function decide_retraction(swap, retraction, position, kind)
  local _, of_swap = parse(swap)
  local verdict, amended
  if retraction then
    local canonical
    canonical, verdict = parse(retraction)
    if canonical ~= position then return "D" end
  else
    if rejected(position) then return "D" end
    -- Only a counted swap has something to undo in the windows.
    verdict = of_swap == "C" and "U" or "V"
    amended = swap .. ";" .. position .. verdict
  end
  -- An archiver ("r") undoes a late swap too. Only its answer differs: the marker keeps V, because
  -- the aggregator reads the same marker and never counted the swap.
  if kind == 114 and of_swap == "L" then verdict = "U" end
  return verdict, amended
end

-- `kind` is a byte: 65 A, 76 L, 82 R, 114 r. Comparing numbers avoids a string per record.
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
    -- Creates no marker: it would make this record the canonical one.
    verdict = "D"
  elseif not value then
    fresh[#fresh + 1] = key
    if kind == 65 then
      verdict, changed[key] = "C", position
    elseif kind == 76 then
      verdict, changed[key] = "L", position .. "L"
    else
      -- A retraction whose swap is unknown: the empty <swap> lets the swap be void when it comes.
      verdict, changed[key] = "V", ";" .. position .. "V"
    end
  elseif value == position and kind ~= 82 and kind ~= 114 then
    -- The usual case of a replay, without the parsing below.
    verdict = "C"
  else
    local amended
    verdict, amended = decide(value, kind, position)
    if amended then
      changed[key] = amended
      -- KEEPTTL: a marker lives from its first record on, however often it is amended. A marker of
      -- this batch does not exist yet; the MSETEX below writes its amended value.
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
    -- A server before Valkey 9.1 or Redis 8.4 does not know MSETEX. Any other error, such as
    -- OOM, recurs in SET and then fails the script: pcall hides nothing.
    for _, key in ipairs(fresh) do redis.call("SET", key, changed[key], "PX", ttl) end
  end
end
return table.concat(verdicts)
